/* The lexer alone: what each line becomes, and how each line that is none is refused. Every test
 * turns what the callbacks see into one text. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "config/ini_reader.h"

struct trace {
    char text[64 << 10];
    size_t used;
    unsigned int stop_after; /* callbacks; 0 = never */
    unsigned int calls;
};

static bool say(struct trace *trace, const char *format, ...) PRINTF_FORMAT(2, 3);
static bool say(struct trace *trace, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length =
        vsnprintf(trace->text + trace->used, sizeof trace->text - trace->used, format, args);
    va_end(args);
    trace->used += (size_t)length;
    cr_assert_lt(trace->used, sizeof trace->text);
    return ++trace->calls != trace->stop_after;
}

static bool on_section(void *owner, const struct ini_section *section)
{
    char name[2 * LIMIT_CONFIG_LINE] = "";
    for (size_t i = 0, used = 0; i < section->part_count; i++)
        used += (size_t)snprintf(name + used, sizeof name - used, "%s%s", i == 0 ? "" : "|",
                                 section->parts[i]);
    return say(owner, "%u[%s]\n", section->line, name);
}

static bool on_entry(void *owner, unsigned int line, const char *key, const char *value)
{
    return say(owner, "%u %s=%s\n", line, key, value);
}

static bool on_error(void *owner, unsigned int line, const char *problem)
{
    return say(owner, "%u!%s\n", line, problem);
}

static const struct ini_reader_ops ops = {on_section, on_entry, on_error};

static struct trace trace;

/* From a heap copy without a NUL, so that a sanitizer sees the first byte beyond. */
static int read_bytes(const char *text, size_t size)
{
    char *exact = malloc(size > 0 ? size : 1);
    cr_assert_not_null(exact);
    memcpy(exact, text, size);
    trace.used = 0;
    trace.calls = 0;
    trace.text[0] = '\0';
    int result = ini_read(exact, size, &ops, &trace);
    free(exact);
    return result;
}

struct example {
    const char *text, *expected;
};

static void check_examples(const struct example *examples, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(read_bytes(examples[i].text, strlen(examples[i].text)), 0);
        cr_expect_str_eq(trace.text, examples[i].expected, "of:\n%s\ngot:\n%sexpected:\n%s",
                         examples[i].text, trace.text, examples[i].expected);
    }
}
#define CHECK_EXAMPLES(examples) check_examples(examples, ARRAY_SIZE(examples))

Test(ini_reader, shapes_of_a_file)
{
    static const struct example examples[] = {
        {"", ""},
        {"\n\n# c\n; c\n  # c\n\t; c", ""},
        {"[a]\nk = v\n", "1[a]\n2 k=v\n"},
        {"[a]\nk=v", "1[a]\n2 k=v\n"}, /* no newline at the end */
        {"[a]\r\nk = v\r\n\r\n", "1[a]\n2 k=v\n"},
        {"[a]\r\nk = \"v\"\r", "1[a]\n2 k=v\n"},
        {"\xef\xbb\xbf[a]\nk = v\n", "1[a]\n2 k=v\n"},
        {"[a]\n\xef\xbb\xbfk = v\n", "1[a]\n2!expected [section] or key = value\n"},
        /* inih alone takes an indented key for more of the value before it. */
        {"  [a]\n    k = v\n\tl = w\n      m = x\n", "1[a]\n2 k=v\n3 l=w\n4 m=x\n"},
        {"[a]\n[b]\n[a]\n", "1[a]\n2[b]\n3[a]\n"}, /* empty and repeated ones are seen */
        {"[a]\nk=1\nk=2\n", "1[a]\n2 k=1\n3 k=2\n"},
        {"\n\n[a]\n\n\nk=1\n", "3[a]\n6 k=1\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(ini_reader, sections)
{
    static const struct example examples[] = {
        {"[a.b.c]", "1[a|b|c]\n"},
        {"[ a . b ]", "1[a|b]\n"},
        {"[a.\"b c\"]", "1[a|b c]\n"},
        {"[a.\"b.c\".'d]e']", "1[a|b.c|d]e]\n"},
        {"[a.\"x:y;z#q\"]", "1[a|x:y;z#q]\n"},
        {"[a.\"\\\"q\\\" \\u00e9\"]", "1[a|\"q\" \xc3\xa9]\n"},
        {"[a.\"\"]", "1[a|]\n"},
        {"[a] # c", "1[a]\n"},
        {"[a]; c", "1[a]\n"},
        {"[a]# c", "1[a]\n"},
        {"[a] b", "1!text after the end of the value or section\n"},
        {"[a", "1!the ] of the section is missing\n"},
        {"[a.b # c]", "1!a name with other characters than A-Z a-z 0-9 _ - needs quotes\n"},
        {"[]", "1!a name is missing\n"},
        {"[a.]", "1!a name is missing\n"},
        {"[.a]", "1!a name is missing\n"},
        {"[a..b]", "1!a name is missing\n"},
        {"[my nas]", "1!a name with other characters than A-Z a-z 0-9 _ - needs quotes\n"},
        {"[a:b]", "1!a name with other characters than A-Z a-z 0-9 _ - needs quotes\n"},
        {"[n\xc3\xa4s]", "1!a name with other characters than A-Z a-z 0-9 _ - needs quotes\n"},
        {"[a.\"b]", "1!the string is not finished\n"},
        {"[[a]]", "1!arrays of tables are not supported here\n"},
        {"[a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p]", "1[a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p]\n"},
        {"[a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q]", "1!too many dots in the name of a section\n"},
        /* The keys of a broken section belong to nobody, least of all to the one before. */
        {"[a]\nk=1\n[b\nk=2\nx\n[c]\nk=3\n", "1[a]\n2 k=1\n3!the ] of the section is missing\n"
                                             "5!expected [section] or key = value\n6[c]\n7 k=3\n"},
        {"[a]\n\t[b\x01]\nk=2\n",
         "1[a]\n2!control bytes are not supported here (\"\\n\" or \"\\u001b\" are)\n"},
        {"k = 1\n[a]\n", "1!a key before the first [section]\n2[a]\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(ini_reader, bare_values)
{
    static const struct example examples[] = {
        {"[a]\nk = 0.0.0.0:2333", "1[a]\n2 k=0.0.0.0:2333\n"},
        {"[a]\nk = [::]:2333", "1[a]\n2 k=[::]:2333\n"},
        {"[a]\nk = [fe80::1%eth0]:2333 # c", "1[a]\n2 k=[fe80::1%eth0]:2333\n"},
        {"[a]\nk = true", "1[a]\n2 k=true\n"},
        {"[a]\nk = a b\tc  ", "1[a]\n2 k=a b\tc\n"},
        {"[a]\nk = a=b", "1[a]\n2 k=a=b\n"},
        {"[a]\nk = a # c", "1[a]\n2 k=a\n"},
        {"[a]\nk = a ; c", "1[a]\n2 k=a\n"},
        {"[a]\nk = a\t;c", "1[a]\n2 k=a\n"},
        {"[a]\nk = a#b;c", "1[a]\n2 k=a#b;c\n"},
        {"[a]\nk = a\"b'c", "1[a]\n2 k=a\"b'c\n"},
        {"[a]\nk = a\\n", "1[a]\n2 k=a\\n\n"},
        {"[a]\nk-1_X = 5", "1[a]\n2 k-1_X=5\n"},
        {"[a]\n\"k\" = 5", "1[a]\n2 k=5\n"},
        {"[a]\nk = p\xc3\xa4ss", "1[a]\n2 k=p\xc3\xa4ss\n"},
        {"[a]\nk =", "1[a]\n2!a value is missing\n"},
        {"[a]\nk = # c", "1[a]\n2!a value is missing\n"},
        {"[a]\nk =#c", "1[a]\n2!a value is missing\n"},
        {"[a]\nk", "1[a]\n2!expected [section] or key = value\n"},
        {"[a]\nk: v", "1[a]\n2!expected [section] or key = value\n"},
        {"[a]\nk l = v", "1[a]\n2!expected [section] or key = value\n"},
        {"[a]\n= v", "1[a]\n2!expected [section] or key = value\n"},
        {"[a]\nk = p\xe4ss", "1[a]\n2!the line is not valid UTF-8\n"},
        {"[a]\n# \xff", "1[a]\n2!the line is not valid UTF-8\n"},
        {"[a]\nk = a\x1b[0m",
         "1[a]\n2!control bytes are not supported here (\"\\n\" or \"\\u001b\" are)\n"},
        {"[a]\nk = a\rl = b",
         "1[a]\n2!control bytes are not supported here (\"\\n\" or \"\\u001b\" are)\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(ini_reader, strings)
{
    static const struct example examples[] = {
        {"[a]\nk = \"v\"", "1[a]\n2 k=v\n"},
        {"[a]\nk = \"\"", "1[a]\n2 k=\n"},
        {"[a]\nk = ''", "1[a]\n2 k=\n"},
        {"[a]\nk = \"]:;#[ =' x\"", "1[a]\n2 k=]:;#[ =' x\n"},
        {"[a]\nk = ']:;#[ =\" \\n'", "1[a]\n2 k=]:;#[ =\" \\n\n"},
        {"[a]\nk = \"a ; b # c\" # d", "1[a]\n2 k=a ; b # c\n"},
        {"[a]\nk = \"a\"# c", "1[a]\n2 k=a\n"},
        {"[a]\nk = 'a';c", "1[a]\n2 k=a\n"},
        {"[a]\nk = \"  a  \"  ", "1[a]\n2 k=  a  \n"},
        {"[a]\nk = \"\\b\\t\\n\\f\\r\\\"\\\\\"", "1[a]\n2 k=\b\t\n\f\r\"\\\n"},
        {"[a]\nk = \"\\u0041\\u00e9\\u20AC\\U0001F600\"",
         "1[a]\n2 k=A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\n"},
        {"[a]\nk = \"v", "1[a]\n2!the string is not finished\n"},
        {"[a]\nk = 'v\"", "1[a]\n2!the string is not finished\n"},
        {"[a]\nk = \"v\\\"", "1[a]\n2!the string is not finished\n"},
        {"[a]\nk = \"v\\", "1[a]\n2!the string is not finished\n"},
        {"[a]\nk = \"v\" w", "1[a]\n2!text after the end of the value or section\n"},
        {"[a]\nk = \"v\"w", "1[a]\n2!text after the end of the value or section\n"},
        {"[a]\nk = \"\\x41\"",
         "1[a]\n2!unknown escape in a string ('...' takes a backslash as it is)\n"},
        {"[a]\nk = \"\\u12\"", "1[a]\n2!\\u needs 4 and \\U 8 hexadecimal digits\n"},
        {"[a]\nk = \"\\U0000\"", "1[a]\n2!\\u needs 4 and \\U 8 hexadecimal digits\n"},
        {"[a]\nk = \"\\u0000\"",
         "1[a]\n2!the escape stands for no character that a text may have\n"},
        {"[a]\nk = \"\\ud800\"",
         "1[a]\n2!the escape stands for no character that a text may have\n"},
        {"[a]\nk = \"\\U00110000\"",
         "1[a]\n2!the escape stands for no character that a text may have\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(ini_reader, toml_beyond_tables_and_scalars)
{
    static const struct example examples[] = {
        {"[a]\nk = [1, 2]", "1[a]\n2!arrays are not supported here\n"},
        {"[a]\nk = []", "1[a]\n2!arrays are not supported here\n"},
        {"[a]\nk = [\"::]:1\"]", "1[a]\n2!arrays are not supported here\n"},
        {"[a]\nk = [", "1[a]\n2!arrays are not supported here\n"},
        {"[a]\nk = { b = 1 }", "1[a]\n2!inline tables are not supported here\n"},
        {"[a]\nk.b = 1", "1[a]\n2!dotted keys are not supported here\n"},
        {"[a]\nk . \"b\" = 1", "1[a]\n2!dotted keys are not supported here\n"},
        {"[a]\nk = \"\"\"x\"\"\"", "1[a]\n2!multi-line strings are not supported here\n"},
        {"[a]\nk = '''", "1[a]\n2!multi-line strings are not supported here\n"},
        {"[a]\nk = 2024-12-31", "1[a]\n2!dates are not supported here (a text needs quotes)\n"},
        {"[a]\nk = 2024-12-31T07:32:00Z",
         "1[a]\n2!dates are not supported here (a text needs quotes)\n"},
        {"[a]\nk = 07:32:00", "1[a]\n2!dates are not supported here (a text needs quotes)\n"},
        {"[a]\nk = \"2024-12-31\"", "1[a]\n2 k=2024-12-31\n"},
    };
    CHECK_EXAMPLES(examples);
}

/* Where inih cuts: names at 50 bytes, lines at 200; and our own end. */
static const size_t lengths[] = {1, 49, 50, 51, 199, 200, 201, 255, 4096};

Test(ini_reader, long_names_and_values)
{
    static char text[2 * LIMIT_CONFIG_LINE], name[2 * LIMIT_CONFIG_LINE],
        expected[4 * LIMIT_CONFIG_LINE];
    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        int length = (int)lengths[i];
        memset(name, 'n', lengths[i]);
        bool fits = length < 4000;
        const char *refusal = "the line is longer than 4096 bytes";

        int size = snprintf(text, sizeof text, "[a]\nk=%.*s\n", length, name);
        (void)snprintf(expected, sizeof expected, fits ? "1[a]\n2 k=%.*s\n" : "1[a]\n2!%.*s\n",
                       fits ? length : 100, fits ? name : refusal);
        cr_assert_eq(read_bytes(text, (size_t)size), 0);
        cr_expect_str_eq(trace.text, expected, "value of %d bytes", length);

        size = snprintf(text, sizeof text, "[a.%.*s]\nk=v", length, name);
        (void)snprintf(expected, sizeof expected, fits ? "1[a|%.*s]\n2 k=v\n" : "1!%.*s\n",
                       fits ? length : 100, fits ? name : refusal);
        cr_assert_eq(read_bytes(text, (size_t)size), 0);
        cr_expect_str_eq(trace.text, expected, "section name of %d bytes", length);

        size = snprintf(text, sizeof text, "[a]\n%.*s=v\n", length, name);
        (void)snprintf(expected, sizeof expected, fits ? "1[a]\n2 %.*s=v\n" : "1[a]\n2!%.*s\n",
                       fits ? length : 100, fits ? name : refusal);
        cr_assert_eq(read_bytes(text, (size_t)size), 0);
        cr_expect_str_eq(trace.text, expected, "key of %d bytes", length);
    }
}

Test(ini_reader, names_that_differ_at_the_end_stay_apart)
{
    char text[512];
    for (size_t i = 0; i < 60; i += 59) {
        int size = snprintf(text, sizeof text, "[s.%060d1]\n[s.%060d2]\nk=v\n", 0, 0);
        cr_assert_eq(read_bytes(text, (size_t)size), 0);
        cr_expect_not_null(strstr(trace.text, "01]\n2[s|0"));
        cr_expect_not_null(strstr(trace.text, "02]\n3 k=v\n"));
    }
}

Test(ini_reader, a_line_of_4096_bytes_is_the_longest)
{
    static char text[LIMIT_CONFIG_LINE + 16];
    memset(text, 'x', sizeof text);
    memcpy(text, "[a]\nk=", 6);
    cr_assert_eq(read_bytes(text, 4 + LIMIT_CONFIG_LINE), 0);
    cr_expect_eq(trace.used, strlen("1[a]\n2 k=\n") + LIMIT_CONFIG_LINE - 2);
    cr_assert_eq(read_bytes(text, 4 + LIMIT_CONFIG_LINE + 1), 0);
    cr_expect_str_eq(trace.text, "1[a]\n2!the line is longer than 4096 bytes\n");
    /* The bytes that end a line do not count. */
    memcpy(text + 4 + LIMIT_CONFIG_LINE, "\r\n", 2);
    cr_assert_eq(read_bytes(text, 4 + LIMIT_CONFIG_LINE + 2), 0);
    cr_expect_eq(trace.used, strlen("1[a]\n2 k=\n") + LIMIT_CONFIG_LINE - 2);
}

Test(ini_reader, nul_bytes)
{
    cr_assert_eq(read_bytes("[a]\nk = a\0b\nl = c\n", 18), 0);
    cr_expect_str_eq(
        trace.text,
        "1[a]\n2!control bytes are not supported here (\"\\n\" or \"\\u001b\" are)\n3 l=c\n");
}

Test(ini_reader, callbacks_can_end_the_reading)
{
    static const char text[] = "[a]\nk = 1\n!\nl = 2\n[b]\n";
    static const char *const expected[] = {
        "1[a]\n",
        "1[a]\n2 k=1\n",
        "1[a]\n2 k=1\n3!expected [section] or key = value\n",
        "1[a]\n2 k=1\n3!expected [section] or key = value\n4 l=2\n",
    };
    for (unsigned int i = 0; i < ARRAY_SIZE(expected); i++) {
        trace.stop_after = i + 1;
        cr_expect_eq(read_bytes(text, strlen(text)), -ECANCELED);
        cr_expect_str_eq(trace.text, expected[i]);
    }
}
