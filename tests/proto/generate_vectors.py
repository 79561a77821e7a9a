#!/usr/bin/env python3
"""Turns wire_vectors.json into a C header of tables for test_vectors.c.

usage: generate_vectors.py wire_vectors.json wire_vectors.h

Every vector is put into a table or listed below as deferred, with the reason. A section, a message
or a reject that is neither stops the build, so that no vector is skipped silently.
"""

import ipaddress
import json
import sys

# Sections that no table has, each with the reason.
DEFERRED_SECTIONS = {
    'noise_control_sessions': 'tests/crypto has vectors of Noise, tests/e2e real rathole over it',
}

SECTIONS = {'about', 'service_digests', 'session_keys', 'messages', 'udp_frames', 'rejects',
            'recorded'}
RECORDED = {'about', 'tcp_control', 'tcp_data_channel', 'udp_control', 'udp_data_channel'}

MESSAGE_KINDS = {
    'ControlChannelHello': 'VECTOR_HELLO',
    'DataChannelHello': 'VECTOR_HELLO',
    'Auth': 'VECTOR_AUTH',
    'Ack': 'VECTOR_ACK',
    'ControlChannelCmd': 'VECTOR_COMMAND',
    'DataChannelCmd': 'VECTOR_DATA_COMMAND',
}
REJECT_PLACES = {
    'server reads hello': 'VECTOR_SERVER_HELLO',
    'client reads server hello': 'VECTOR_CLIENT_HELLO',
    'client reads ack': 'VECTOR_CLIENT_ACK',
    'client control loop': 'VECTOR_CLIENT_COMMANDS',
    'client on data channel': 'VECTOR_CLIENT_DATA',
    'UDP data channel': 'VECTOR_UDP_CHANNEL',
}

PROLOGUE = '''/* Generated from wire_vectors.json by generate_vectors.py. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum vector_kind { VECTOR_HELLO, VECTOR_AUTH, VECTOR_ACK, VECTOR_COMMAND, VECTOR_DATA_COMMAND };
enum vector_place {
    VECTOR_SERVER_HELLO,
    VECTOR_CLIENT_HELLO,
    VECTOR_CLIENT_ACK,
    VECTOR_CLIENT_COMMANDS,
    VECTOR_CLIENT_DATA,
    VECTOR_UDP_CHANNEL,
};

struct vector_bytes {
    const uint8_t *bytes;
    size_t len;
};
struct vector_digest {
    const char *name;
    struct vector_bytes input; /* the service's name, or the token */
    struct vector_bytes nonce; /* only for a session key */
    struct vector_bytes digest;
};
struct vector_message {
    const char *name;
    enum vector_kind kind;
    uint32_t tag;               /* an Auth has none */
    struct vector_bytes digest; /* of a Hello or an Auth */
    struct vector_bytes wire;
};
struct vector_reject {
    const char *name;
    enum vector_place place;
    struct vector_bytes wire;
};
struct vector_udp_frame {
    const char *name;
    struct vector_bytes octets; /* of the address */
    unsigned int port;
    struct vector_bytes head; /* everything in front of the payload */
    struct vector_bytes payload;
    unsigned int payload_len; /* larger than payload.len: payload is one byte, repeated */
    int may_send;
};
struct vector_step {
    const char *name;
    int from_client;
    struct vector_bytes wire;
};
struct vector_session {
    const char *name;
    struct vector_bytes service, token, nonce, session_key;
    const struct vector_step *steps;
    size_t step_count;
};
'''


def c_string(text):
    return '"' + ''.join(c if c.isascii() and c.isprintable() and c not in '"\\' else '?'
                         for c in text) + '"'


def c_bytes(hex_text):
    data = bytes.fromhex(hex_text)
    if not data:
        return '{(const uint8_t *)"", 0}'
    return '{(const uint8_t[]){%s}, %d}' % (', '.join('0x%02x' % b for b in data), len(data))


def table(c_type, name, rows):
    assert rows, name
    return 'static const struct %s %s[] = {\n%s\n};\n' % (
        c_type, name, '\n'.join('    {%s},' % ', '.join(row) for row in rows))


def known(keys, allowed, deferred, what):
    unknown = set(keys) - set(allowed) - set(deferred)
    if unknown:
        sys.exit('%s neither tested nor deferred: %s' % (what, ', '.join(sorted(unknown))))


def digests(vectors):
    services = [(c_string(v['service']), c_bytes(v['service_utf8']), c_bytes(''),
                 c_bytes(v['sha256'])) for v in vectors['service_digests']]
    keys = [(c_string(v['token']), c_bytes(v['token_utf8']), c_bytes(v['nonce']),
             c_bytes(v['sha256_token_nonce'])) for v in vectors['session_keys']]
    return (table('vector_digest', 'vector_service_digests', services) +
            table('vector_digest', 'vector_session_keys', keys))


def messages(vectors):
    rows = []
    for v in vectors['messages']:
        kind = v['name'].split('::')[0].split(' ')[0]
        known([kind], MESSAGE_KINDS, [], 'message')
        fields = v['fields']
        known(fields, ['variant', 'version', 'digest', 'session_key'], [], 'field')
        assert fields.get('version', 1) == 1 and v['length'] * 2 == len(v['bytes'])
        rows.append((c_string(v['name']), MESSAGE_KINDS[kind], str(fields.get('variant', 0)),
                     c_bytes(fields.get('digest') or fields.get('session_key') or ''),
                     c_bytes(v['bytes'])))
    return table('vector_message', 'vector_messages', rows)


def udp_frames(vectors):
    rows = []
    for v in vectors['udp_frames']:
        payload = v['payload']
        if payload.startswith('repeat '):
            _, payload, count = payload.split()
            assert int(count) == v['payload_length']
        else:
            assert len(payload) == 2 * v['payload_length'] != 2
            assert v['frame'] == v['frame_head'] + payload
        octets = ipaddress.ip_address(v['address']).packed.hex()
        rows.append((c_string(v['name']), c_bytes(octets), str(v['port']),
                     c_bytes(v['frame_head']), c_bytes(payload), str(v['payload_length']),
                     str(int(v['may_send']))))
    return table('vector_udp_frame', 'vector_udp_frames', rows)


def rejects(vectors):
    known((v['at'] for v in vectors['rejects']), REJECT_PLACES, [], 'reject')
    return table('vector_reject', 'vector_rejects', [
        (c_string(v['name']), REJECT_PLACES[v['at']], c_bytes(v['bytes']))
        for v in vectors['rejects'] if v['at'] in REJECT_PLACES])


def session(recorded, name):
    v = recorded[name]
    steps = v['steps']
    text = table('vector_step', 'vector_%s_steps' % name, [
        (c_string(s['name']), str(int(s['sender'] == 'client')), c_bytes(s['bytes']))
        for s in steps])
    row = (c_string(name), c_bytes(v.get('service', '').encode().hex()),
           c_bytes(v.get('token', '').encode().hex()), c_bytes(v.get('nonce', '')),
           c_bytes(v['session_key']), 'vector_%s_steps' % name, str(len(steps)))
    return text, row


def main():
    source, target = sys.argv[1:]
    with open(source, encoding='utf-8') as f:
        vectors = json.load(f)
    known(vectors, SECTIONS, DEFERRED_SECTIONS, 'section')
    recorded = vectors['recorded']
    known(recorded, RECORDED, [], 'recorded session')
    sessions = [session(recorded, n) for n in sorted(RECORDED - {'about'})]
    with open(target, 'w', encoding='utf-8') as f:
        f.write(PROLOGUE)
        f.write(digests(vectors))
        f.write(messages(vectors))
        f.write(udp_frames(vectors))
        f.write(rejects(vectors))
        f.write(''.join(text for text, _ in sessions))
        f.write(table('vector_session', 'vector_sessions', [row for _, row in sessions]))


if __name__ == '__main__':
    main()
