#!/usr/bin/env python3
"""Turns noise_vectors.json into a C header of tables for test_noise_vectors.c.

usage: generate_vectors.py noise_vectors.json noise_vectors.h

An unknown field stops the build, so that no part of a vector is skipped silently.
"""

import json
import sys

# In the order of struct noise_vector. Fields of the second list may be missing (a null pointer).
TEXT_FIELDS = ['source', 'protocol_name']
BYTES_FIELDS = [
    'initiator_prologue', 'responder_prologue', 'initiator_static_private',
    'responder_static_private', 'initiator_ephemeral_private', 'responder_ephemeral_private',
    'initiator_known_responder_static_public', 'responder_known_initiator_static_public',
    'handshake_hash']
MESSAGE_FIELDS = {'sender', 'phase', 'payload', 'ciphertext'}

PROLOGUE = '''/* Generated from noise_vectors.json by generate_vectors.py. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct noise_vector_bytes {
    const uint8_t *bytes; /* NULL: the vector has none */
    size_t len;
};
struct noise_vector_message {
    bool from_initiator;
    bool is_handshake;
    struct noise_vector_bytes payload, ciphertext;
};
struct noise_vector {
    const char *source, *protocol_name;
%s
    const struct noise_vector_message *messages;
    size_t message_count;
};
''' % '\n'.join('    struct noise_vector_bytes %s;' % name for name in BYTES_FIELDS)


def c_bytes(hex_text):
    if hex_text is None:
        return '{NULL, 0}'
    data = bytes.fromhex(hex_text)
    return '{(const uint8_t[]){%s}, %d}' % (', '.join('0x%02x' % b for b in data), len(data))


def c_bool(value, choices):
    assert value in choices, value
    return 'true' if value == choices[0] else 'false'


def known(keys, allowed):
    unknown = set(keys) - set(allowed)
    if unknown:
        sys.exit('not tested: %s' % ', '.join(sorted(unknown)))


def message(fields):
    known(fields, MESSAGE_FIELDS)
    return '    {%s, %s, %s, %s},' % (
        c_bool(fields['sender'], ('initiator', 'responder')),
        c_bool(fields['phase'], ('handshake', 'transport')),
        c_bytes(fields['payload']), c_bytes(fields['ciphertext']))


def vector(index, fields):
    known(fields, TEXT_FIELDS + BYTES_FIELDS + ['messages'])
    name = 'noise_vector_%d_messages' % index
    messages = 'static const struct noise_vector_message %s[] = {\n%s\n};\n' % (
        name, '\n'.join(message(m) for m in fields['messages']))
    row = ['"%s"' % fields[f] for f in TEXT_FIELDS]
    row += [c_bytes(fields.get(f)) for f in BYTES_FIELDS]
    row += [name, str(len(fields['messages']))]
    return messages, '    {%s},\n' % ', '.join(row)


def main():
    source, target = sys.argv[1:]
    with open(source, encoding='utf-8') as f:
        content = json.load(f)
    known(content, ['about', 'vectors'])
    vectors = [vector(i, v) for i, v in enumerate(content['vectors'])]
    assert vectors
    with open(target, 'w', encoding='utf-8') as f:
        f.write(PROLOGUE)
        f.write(''.join(messages for messages, _ in vectors))
        f.write('static const struct noise_vector noise_vectors[] = {\n%s};\n' %
                ''.join(row for _, row in vectors))


if __name__ == '__main__':
    main()
