/* src/config/ini_lex.c and src/config/ini_reader.c: what each line is read as, and how invalid
 * lines are refused. The callbacks write what they get into one text, which the tests compare. */
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

/* Writes sections as [a|b] and braces as {a|b}, behind their line. */
static bool on_table(void *owner, const struct ini_table *table)
{
    char name[2 * LIMIT_CONFIG_TEXT] = "";
    for (size_t i = 0, used = 0; i < table->part_count; i++)
        used += (size_t)snprintf(name + used, sizeof name - used, "%s%s", i == 0 ? "" : "|",
                                 table->parts[i]);
    bool is_inline = table->form == INI_INLINE;
    cr_expect(is_inline || table->form == INI_SECTION);
    cr_expect_lt(table->outer_count, table->part_count);
    return say(owner, "%u%s%s%s\n", table->line, is_inline ? "{" : "[", name,
               is_inline ? "}" : "]");
}

/* Writes "key=value"; a dotted key with its table in front, "a|b:key=value"; of an array
 * "key@=value". */
static bool on_entry(void *owner, const struct ini_entry *entry)
{
    const struct ini_table *table = entry->table;
    char name[2 * LIMIT_CONFIG_TEXT] = "";
    for (size_t i = 0, used = 0; table->form == INI_DOTTED && i < table->part_count; i++)
        used += (size_t)snprintf(name + used, sizeof name - used, "%s%s", table->parts[i],
                                 i + 1 < table->part_count ? "|" : ":");
    cr_expect_not(entry->is_array && entry->is_bare);
    return say(owner, "%u %s%s%s=%s\n", entry->line, name, entry->key, entry->is_array ? "@" : "",
               entry->value);
}

static bool on_error(void *owner, unsigned int line, const char *problem)
{
    return say(owner, "%u!%s\n", line, problem);
}

static const struct ini_reader_ops ops = {on_table, on_entry, on_error};

static struct trace trace;

/* Uses a heap copy without a NUL, so that a sanitizer sees a read behind it. */
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
        /* A byte order mark: secret_file_read has removed that of a file. */
        {"\xef\xbb\xbf[a]\nk = v\n", "1!expected [section] or key = value\n"
                                     "2!a key before the first [section]\n"},
        {"[a]\n\xef\xbb\xbfk = v\n", "1[a]\n2!expected [section] or key = value\n"},
        /* inih alone would append an indented line to the value before it. */
        {"  [a]\n    k = v\n\tl = w\n      m = x\n", "1[a]\n2 k=v\n3 l=w\n4 m=x\n"},
        {"[a]\n[b]\n[a]\n", "1[a]\n2[b]\n3[a]\n"}, /* empty and repeated sections are reported */
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
        /* Keys below a broken section line do not go to the section before. */
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
        {"[a]\nk = \"\\u0000\"", "1[a]\n2!the escape is not a valid character\n"},
        {"[a]\nk = \"\\ud800\"", "1[a]\n2!the escape is not a valid character\n"},
        {"[a]\nk = \"\\U00110000\"", "1[a]\n2!the escape is not a valid character\n"},
    };
    CHECK_EXAMPLES(examples);
}

#define NO_ARRAY \
    "!expected an array of strings in quotes, with commas between them and ] at its end\n"

Test(ini_reader, arrays_of_strings)
{
    static const struct example examples[] = {
        {"[a]\nk = []", "1[a]\n2 k@=\n"},
        {"[a]\nk = [ ] # c", "1[a]\n2 k@=\n"},
        {"[a]\nk = [\"x\"]", "1[a]\n2 k@=x\n"},
        {"[a]\nk = [\"::]:1\"]", "1[a]\n2 k@=::]:1\n"},
        {"[a]\nk=['x',\"y#\\u0041\" , 'z',]\nl=1", "1[a]\n2 k@=x,y#A,z\n3 l=1\n"},
        {"[a]\nk = [\n  \"x\", # c ]\n\n  # ]\r\n  \"y\"\n  , \"z\"\n]\nl = 1",
         "1[a]\n2 k@=x,y,z\n9 l=1\n"},
        {"[a]\nb = {k = [\"x\",\n \"y\"], l = []}", "1[a]\n2{a|b}\n2 k@=x,y\n3 l@=\n"},
        {"[a]\nk = [1, 2]\nl=1", "1[a]\n2" NO_ARRAY "3 l=1\n"},
        {"[a]\nk = [x]", "1[a]\n2" NO_ARRAY},
        {"[a]\nk = [\"x\" \"y\"]", "1[a]\n2" NO_ARRAY},
        {"[a]\nk = [\"x\",, \"y\"]", "1[a]\n2" NO_ARRAY},
        {"[a]\nk = [,]", "1[a]\n2" NO_ARRAY},
        {"[a]\nk = [[\"x\"]]", "1[a]\n2" NO_ARRAY},
        {"[a]\nk = [\"\"\"x\"\"\"]", "1[a]\n2" NO_ARRAY},
        {"[a]\nk = [{l = 1}]\nm = 2", "1[a]\n2" NO_ARRAY "3 m=2\n"},
        {"[a]\nk = { b = [1] }", "1[a]\n2{a|k}\n2" NO_ARRAY},
        /* After an error it is read to its end, so the lines in it are no entries. */
        {"[a]\nk = [\n 1,\nl = 2\n]\nm = 3", "1[a]\n3" NO_ARRAY "6 m=3\n"},
        {"[a]\nk = [\"x]\n\"y\"]\nm = 3", "1[a]\n2!the string is not finished\n4 m=3\n"},
        {"[a]\nk = [\"x\"] y", "1[a]\n2!text after the end of the value or section\n"},
        {"[a]\nk = [\n\"\x01\"\n]\nl = 1",
         "1[a]\n3!control bytes are not supported here (\"\\n\" or \"\\u001b\" are)\n5 l=1\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(ini_reader, an_array_without_an_end)
{
    static const char *const texts[] = {"[a]\nk = [", "[a]\nk = [\nl = 1\n", "[a]\nk = [\"x\",\n",
                                        "[a]\nk = [\"x\ny", "[a]\nk = [x"};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        cr_expect_eq(read_bytes(texts[i], strlen(texts[i])), -ECANCELED, "%s", texts[i]);
        cr_expect_str_eq(trace.text, "1[a]\n2!the array is not finished\n");
    }
}

Test(ini_reader, an_array_that_is_too_long)
{
    static const char head[] = "[a]\nk = [\n", item[] = "\"10.0.0.0/8\",\n", tail[] = "]\nl = 1\n";
    char text[2 * LIMIT_CONFIG_TEXT + 64];
    size_t used = sizeof head - 1;
    memcpy(text, head, sizeof head);
    for (; used < 2 * LIMIT_CONFIG_TEXT; used += sizeof item - 1)
        memcpy(text + used, item, sizeof item);
    memcpy(text + used, tail, sizeof tail);
    cr_expect_eq(read_bytes(text, strlen(text)), 0);
    cr_expect_not_null(strstr(trace.text, "!a name or a value is longer than 4096 bytes\n"));
    cr_expect_not_null(strstr(trace.text, " l=1\n"));
    cr_expect_eq(trace.calls, 3, "one error alone: %s", trace.text);
}

Test(ini_reader, toml_beyond_tables_and_scalars)
{
    static const struct example examples[] = {
        {"[a]\nk = 2024-12-31", "1[a]\n2!dates are not supported here (a text needs quotes)\n"},
        {"[a]\nk = 2024-12-31T07:32:00Z",
         "1[a]\n2!dates are not supported here (a text needs quotes)\n"},
        {"[a]\nk = 07:32:00", "1[a]\n2!dates are not supported here (a text needs quotes)\n"},
        {"[a]\nk = \"2024-12-31\"", "1[a]\n2 k=2024-12-31\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(ini_reader, keys_with_dots)
{
    static const struct example examples[] = {
        {"[a]\nb.k = v", "1[a]\n2 a|b:k=v\n"},
        {"[a]\nb . c.k = v # d", "1[a]\n2 a|b|c:k=v\n"},
        {"[a]\n\"b c\".'d.e'.\"k\" = \"v\"", "1[a]\n2 a|b c|d.e:k=v\n"},
        {"[a]\n\"\".\"\" = v", "1[a]\n2 a|:=v\n"},
        {"[a]\nb.k = 1\nl = 2\nb.m = 3", "1[a]\n2 a|b:k=1\n3 l=2\n4 a|b:m=3\n"},
        {"b.k = v\n[a]\n", "1 b:k=v\n2[a]\n"},
        {"[a]\n.k = v", "1[a]\n2!expected [section] or key = value\n"},
        {"[a]\nb. = v", "1[a]\n2!a name is missing\n"},
        {"[a]\nb..k = v", "1[a]\n2!a name is missing\n"},
        {"[a]\nb.k v", "1[a]\n2!expected [section] or key = value\n"},
        {"[a]\nb.\"k = v", "1[a]\n2!the string is not finished\n"},
        {"[a]\nb.\"\"\"k\"\"\" = v", "1[a]\n2!a name must not span lines\n"},
        {"[a]\nb.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q = v",
         "1[a]\n2 a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p:q=v\n"},
        {"[a]\nb.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r = v", "1[a]\n2!too many dots in a key\n"},
        {"[a\nb.k = v", "1!the ] of the section is missing\n"},
    };
    CHECK_EXAMPLES(examples);
}

#define NO_BRACE  "2!the } is missing: a table in braces ends on its line\n"
#define FOUR_DEEP "1{a}\n1{a|b}\n1{a|b|c}\n1{a|b|c|d}\n"

Test(ini_reader, tables_in_braces)
{
    static const struct example examples[] = {
        {"[a]\nb = {}", "1[a]\n2{a|b}\n"},
        {"[a]\nb = { } # c", "1[a]\n2{a|b}\n"},
        {"b = {k = 1}", "1{b}\n1 k=1\n"},
        {"[a]\nb = {k = 1, l = \"x, }\", m = 'y'}\nn = 2",
         "1[a]\n2{a|b}\n2 k=1\n2 l=x, }\n2 m=y\n3 n=2\n"},
        {"[a]\nb = {c = {k = 1}, d = {}, l = 2}\nm = 3",
         "1[a]\n2{a|b}\n2{a|b|c}\n2 k=1\n2{a|b|d}\n2 l=2\n3 m=3\n"},
        {"[a]\nb.c = {d.k = 1, \"e f\".g = {l = 2}}",
         "1[a]\n2{a|b|c}\n2 a|b|c|d:k=1\n2{a|b|c|e f|g}\n2 l=2\n"},
        {"[a]\nb={k=1.2.3.4:5,l=[::1]:6}", "1[a]\n2{a|b}\n2 k=1.2.3.4:5\n2 l=[::1]:6\n"},
        {"[a]\nb = {k = \"\"\"x\ny\"\"\", l = 1}\nm = 2", "1[a]\n2{a|b}\n2 k=x\ny\n3 l=1\n4 m=2\n"},
        {"[a]\nb = {", "1[a]\n2{a|b}\n" NO_BRACE},
        {"[a]\nb = { # c\nk = 1\n}",
         "1[a]\n2{a|b}\n" NO_BRACE "3 k=1\n4!expected [section] or key = value\n"},
        {"[a]\nb = {k = 1, }", "1[a]\n2{a|b}\n2 k=1\n2!a comma before } is not supported here\n"},
        {"[a]\nb = {, k = 1}", "1[a]\n2{a|b}\n2!expected key = value between the braces\n"},
        {"[a]\nb = {k = 1 l = 2}", "1[a]\n2{a|b}\n2 k=1\n2!expected a comma or } behind a value\n"},
        {"[a]\nb = {k = 1,, l = 2}",
         "1[a]\n2{a|b}\n2 k=1\n2!expected key = value between the braces\n"},
        {"[a]\nb = {k = }", "1[a]\n2{a|b}\n2!a value is missing\n"},
        {"[a]\nb = {k = \"x}", "1[a]\n2{a|b}\n2!the string is not finished\n"},
        {"[a]\nb = {} c", "1[a]\n2{a|b}\n2!text after the end of the value or section\n"},
        {"[a]\nb = {}}", "1[a]\n2{a|b}\n2!text after the end of the value or section\n"},
        {"[a]\nb = {c = {k = 1}", "1[a]\n2{a|b}\n2{a|b|c}\n2 k=1\n" NO_BRACE},
        /* An error skips the rest of the line; the next line is in the section again. */
        {"[a]\nb = {c = {k = [1], l = 1}}\nm = 2", "1[a]\n2{a|b}\n2{a|b|c}\n2" NO_ARRAY "3 m=2\n"},
        {"[a\nb = {k = 1}\nc = {l}\n[d]\n", "1!the ] of the section is missing\n"
                                            "3!expected [section] or key = value\n4[d]\n"},
        {"a={b={c={d={k=1}}}}\nl.m = 2", FOUR_DEEP "1 k=1\n2 l:m=2\n"},
        {"[a.b.c.d.e.f.g.h.i.j.k.l.m.n.o]\np={}\np={q={}}",
         "1[a|b|c|d|e|f|g|h|i|j|k|l|m|n|o]\n2{a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p}\n"
         "3{a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p}\n3!braces are nested too deeply\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(ini_reader, braces_as_deep_as_they_go)
{
    char text[128] = "";
    for (size_t depth = 1; depth <= INI_PARTS_MAX + 1; depth++) {
        size_t used = 0;
        for (size_t i = 0; i < depth; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, "a={");
        for (size_t i = 0; i < depth; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, "}");
        cr_assert_eq(read_bytes(text, used), 0);
        cr_expect_eq(strchr(trace.text, '!') != NULL, depth > INI_PARTS_MAX, "%s", trace.text);
        cr_expect_eq(trace.calls, depth);
    }
}

Test(ini_reader, strings_of_many_lines)
{
    static const struct example examples[] = {
        {"[a]\nk = \"\"\"x\"\"\"", "1[a]\n2 k=x\n"},
        {"[a]\nk = '''x''' # c", "1[a]\n2 k=x\n"},
        {"[a]\nk = \"\"\"\"\"\"", "1[a]\n2 k=\n"},
        {"[a]\nk = \"\"\"\nx\n y\n\"\"\"\nl = 1", "1[a]\n2 k=x\n y\n\n6 l=1\n"},
        {"[a]\r\nk = '''\r\nx\r\ny'''\r\nl = 1", "1[a]\n2 k=x\ny\n5 l=1\n"},
        {"[a]\nk = \"\"\"\n\nx\"\"\"", "1[a]\n2 k=\nx\n"}, /* only the first newline is dropped */
        {"[a]\nk = \"\"\"\\\n  x \\  \n\n\t y\"\"\"", "1[a]\n2 k=x y\n"},
        {"[a]\nk = '''\\\nx'''", "1[a]\n2 k=\\\nx\n"},
        {"[a]\nk = \"\"\"\\t\\u0041\\\"\"\"\"", "1[a]\n2 k=\tA\"\n"},
        {"[a]\nk = \"\"\"x\"\"\"\"\nl = 1", "1[a]\n2 k=x\"\n3 l=1\n"},
        {"[a]\nk = \"\"\"\"\"x\"\"y\"\"\"\"\"", "1[a]\n2 k=\"\"x\"\"y\"\"\n"},
        {"[a]\nk = \"\"\"x\"\"\"\"\"\"", "1[a]\n2!text after the end of the value or section\n"},
        {"[a]\nk = \"\"\"\n[b]\n# c\nl = 1\n\"\"\"\n", "1[a]\n2 k=[b]\n# c\nl = 1\n\n"},
        {"[a]\nk = \"\"\"x\ny\"\"\" z\nl = 1",
         "1[a]\n3!text after the end of the value or section\n4 l=1\n"},
        /* An error inside is reported with its line, and the string is skipped to its end. */
        {"[a]\nk = \"\"\"\nx\\q\n\\z\n\"\"\"\nl = 1",
         "1[a]\n3!unknown escape in a string ('...' takes a backslash as it is)\n6 l=1\n"},
        {"[a]\nk = \"\"\"\nx\n\xff\n\"\"\"\nl = 1", "1[a]\n4!the line is not valid UTF-8\n6 l=1\n"},
        {"[a]\nk = \"\"\"\n\xff\n\"\"\"\nl = 1", "1[a]\n3!the line is not valid UTF-8\n5 l=1\n"},
        {"[a]\nk = \"\"\"\\\n\x01\n\"\"\"\nl = 1",
         "1[a]\n3!control bytes are not supported here (\"\\n\" or \"\\u001b\" are)\n5 l=1\n"},
    };
    CHECK_EXAMPLES(examples);
}

/* Everything below is part of the string: the reader stops (-ECANCELED). */
Test(ini_reader, a_string_without_an_end)
{
    static const char *const texts[] = {
        "[a]\nk = \"\"\"x\nl = 1\n", "[a]\nk = '''",          "[a]\nk = \"\"\"\n",
        "[a]\nk = \"\"\"\\\n\n",     "[a]\nk = {l = '''x\n}", "[a]\nk = \"\"\"\n\\q\n",
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        cr_expect_eq(read_bytes(texts[i], strlen(texts[i])), -ECANCELED, "%s", texts[i]);
        cr_expect_not_null(strstr(trace.text, "2!the string is not finished\n"), "%s", trace.text);
        cr_expect_null(strstr(trace.text, "l="), "%s", trace.text);
    }
}

/* Around inih's limits (names of 50 bytes, lines of 200), and around ours. */
static const size_t lengths[] = {1, 49, 50, 51, 199, 200, 201, 255, 4000, 4096, 4097};

/* Each '@' stands for a long word: in the text (format) and in its trace if the word fits, or the
 * refusal if it does not. */
static void check_length(const char *format, const char *fits, const char *refused, size_t length,
                         size_t longest)
{
    static const char refusal[] = "a name or a value is longer than 4096 bytes";
    static char text[2 * LIMIT_CONFIG_TEXT], word[2 * LIMIT_CONFIG_TEXT],
        expected[4 * LIMIT_CONFIG_TEXT];
    const char *placeholder = strchr(format, '@');
    memset(word, 'n', length);
    word[length] = '\0';
    int size = snprintf(text, sizeof text, "%.*s%s%s", (int)(placeholder - format), format, word,
                        placeholder + 1);
    cr_assert_eq(read_bytes(text, (size_t)size), 0);
    const char *shape = length <= longest ? fits : refused;
    placeholder = strchr(shape, '@');
    (void)snprintf(expected, sizeof expected, "%.*s%s%s", (int)(placeholder - shape), shape,
                   length <= longest ? word : refusal, placeholder + 1);
    cr_expect_str_eq(trace.text, expected, "%zu bytes in %s", length, format);
}

Test(ini_reader, long_names_and_values)
{
    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        const size_t length = lengths[i], longest = LIMIT_CONFIG_TEXT;
        check_length("[a]\nk=@\n", "1[a]\n2 k=@\n", "1[a]\n2!@\n", length, longest);
        check_length("[a]\nk='@'\n", "1[a]\n2 k=@\n", "1[a]\n2!@\n", length, longest);
        check_length("[a]\nk='''\n@'''\n", "1[a]\n2 k=@\n", "1[a]\n3!@\n", length, longest);
        check_length("[a]\nb={k=@}\n", "1[a]\n2{a|b}\n2 k=@\n", "1[a]\n2{a|b}\n2!@\n", length,
                     longest);
        /* All names together share one buffer, with a NUL behind each. */
        check_length("[a.@]\nk=v", "1[a|@]\n2 k=v\n", "1!@\n", length, longest - 4);
        check_length("[a]\n@=v\n", "1[a]\n2 @=v\n", "1[a]\n2!@\n", length, longest - 2);
        check_length("[a]\nb.@=v\n", "1[a]\n2 a|b:@=v\n", "1[a]\n2!@\n", length, longest - 4);
    }
}

Test(ini_reader, names_fill_their_room_to_the_last_byte)
{
    static char text[2 * LIMIT_CONFIG_TEXT], name[LIMIT_CONFIG_TEXT];
    memset(name, 'n', sizeof name);
    for (int length = LIMIT_CONFIG_TEXT - 6; length < LIMIT_CONFIG_TEXT; length++) {
        int size = snprintf(text, sizeof text, "[%.*s]\n\"\".\"\"=v\n", length, name);
        cr_assert_eq(read_bytes(text, (size_t)size), 0);
        bool fits = length + 1 + 1 + 1 <= LIMIT_CONFIG_TEXT + 1;
        cr_expect_eq(strstr(trace.text, "|:=v") != NULL, fits, "%d", length);
        cr_expect_eq(strstr(trace.text, "2!a name or a value is longer") != NULL, !fits, "%d",
                     length);
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

/* A serializer may write the whole file on one line, and comments may be drawn boxes. */
Test(ini_reader, lines_have_no_bound_of_their_own)
{
    static char text[16 * LIMIT_CONFIG_TEXT], expected[16 * LIMIT_CONFIG_TEXT];
    size_t size = 0, used = 0;
    size += (size_t)snprintf(text, sizeof text, "[a]\n#%-20000s\nb = {k0 = 0", "c");
    used += (size_t)snprintf(expected, sizeof expected, "1[a]\n3{a|b}\n3 k0=0\n");
    for (int i = 1; i < 1000; i++) {
        size += (size_t)snprintf(text + size, sizeof text - size, ", k%d = %d", i, i);
        used += (size_t)snprintf(expected + used, sizeof expected - used, "3 k%d=%d\n", i, i);
    }
    (void)snprintf(text + size, sizeof text - size, "}%-5000s#%-5000s", "", "c");
    cr_assert_eq(read_bytes(text, strlen(text)), 0);
    cr_expect_str_eq(trace.text, expected);
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
