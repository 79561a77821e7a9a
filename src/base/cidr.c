#include "base/cidr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { V4_AT = 96, BITS = 128, OPEN_MAX = BITS + 1 };

struct point {
    uint64_t high, low;
};

struct cidr_set {
    _Atomic unsigned int users;
    bool allows_others;
    /* Where the verdict changes, in ascending order. Before the first one, allows_others holds. */
    size_t v4_count, v6_count;
    uint32_t *v4;
    struct point *v6;
};

/* ---- prefixes ---- */

static struct point mask_of(unsigned int bits)
{
    return (struct point){
        .high = bits == 0    ? 0
                : bits >= 64 ? UINT64_MAX
                             : UINT64_MAX << (64 - bits),
        .low = bits <= 64 ? 0 : UINT64_MAX << (BITS - bits),
    };
}

static struct point point_of(const uint8_t bytes[static 16])
{
    struct point point = {0, 0};
    for (size_t i = 0; i < 8; i++) {
        point.high = point.high << 8 | bytes[i];
        point.low = point.low << 8 | bytes[8 + i];
    }
    return point;
}

static bool is_mapped(struct point point)
{
    return point.high == 0 && point.low >> 32 == 0xffff;
}

/* Decimal digits alone, without zeros in front. */
static bool parse_length(const char *text, unsigned int max, unsigned int *ret)
{
    unsigned int length = 0;
    size_t size = strlen(text);
    if (size == 0 || size > 3 || (text[0] == '0' && size > 1))
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return false;
        length = length * 10 + (unsigned int)(*text - '0');
    }
    *ret = length;
    return length <= max;
}

static bool parse_address(const char *text, struct point *ret, bool *ret_is_v6)
{
    uint8_t bytes[16] = {0};
    *ret_is_v6 = strchr(text, ':') != NULL;
    if (inet_pton(*ret_is_v6 ? AF_INET6 : AF_INET, text, *ret_is_v6 ? bytes : bytes + 12) != 1)
        return false;
    *ret = point_of(bytes);
    return true;
}

int cidr_parse(const char *text, size_t size, struct cidr *ret)
{
    char copy[CIDR_TEXT_SIZE];
    struct point at;
    bool is_v6;
    if (size >= sizeof(copy) || memchr(text, '\0', size) != NULL)
        return -EINVAL;
    memcpy(copy, text, size);
    copy[size] = '\0';
    char *slash = strchr(copy, '/');
    if (slash != NULL)
        *slash = '\0';
    if (!parse_address(copy, &at, &is_v6))
        return -EINVAL;
    unsigned int first_bit = is_v6 ? 0 : V4_AT, bits = BITS - first_bit;
    if (slash != NULL && !parse_length(slash + 1, BITS - first_bit, &bits))
        return -EINVAL;
    bits += first_bit;
    if (is_v6 && is_mapped(at) && bits >= V4_AT) {
        is_v6 = false;
        at.low &= UINT32_MAX;
    }
    struct point mask = mask_of(bits);
    *ret = (struct cidr){.high = at.high & mask.high,
                         .low = at.low & mask.low,
                         .bits = (uint8_t)bits,
                         .is_v6 = is_v6};
    return ret->high == at.high && ret->low == at.low ? 0 : -EDOM;
}

const char *cidr_format(const struct cidr *cidr, char out[static CIDR_TEXT_SIZE])
{
    char digits[INET6_ADDRSTRLEN];
    uint8_t bytes[16];
    for (size_t i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(cidr->high >> (56 - 8 * i));
        bytes[8 + i] = (uint8_t)(cidr->low >> (56 - 8 * i));
    }
    (void)inet_ntop(cidr->is_v6 ? AF_INET6 : AF_INET, cidr->is_v6 ? bytes : bytes + 12, digits,
                    sizeof(digits));
    (void)snprintf(out, CIDR_TEXT_SIZE, "%s/%d", digits, cidr->bits - (cidr->is_v6 ? 0 : V4_AT));
    return out;
}

/* ---- flattening ---- */

/* From the first prefix to the last, with those that are open around the current one. An open
 * prefix is longer than the one before it, so their number is bounded. */
struct sweep {
    struct point *changes;
    size_t count;
    bool allows_others;
    const struct cidr *open[OPEN_MAX];
    size_t depth;
};

/* From this address on, and until the next call, the verdict is `allows`. */
static void sweep_set(struct sweep *sweep, struct point at, bool allows)
{
    if (sweep->count > 0 && sweep->changes[sweep->count - 1].high == at.high &&
        sweep->changes[sweep->count - 1].low == at.low)
        sweep->count--;
    bool is_other = sweep->count % 2 != 0;
    if (allows != (sweep->allows_others != is_other))
        sweep->changes[sweep->count++] = at;
}

/* The address behind the innermost open prefix has the verdict of the one around it. */
static void sweep_close(struct sweep *sweep)
{
    const struct cidr *last = sweep->open[--sweep->depth];
    struct point mask = mask_of(last->bits);
    struct point next = {last->high | ~mask.high, (last->low | ~mask.low) + 1};
    next.high += next.low == 0;
    if (next.high == 0 && next.low == 0)
        return; /* behind the last address of all */
    sweep_set(sweep, next,
              sweep->depth > 0 ? !sweep->open[sweep->depth - 1]->is_denied : sweep->allows_others);
}

static bool is_in(const struct cidr *inner, const struct cidr *outer)
{
    struct point mask = mask_of(outer->bits);
    return (inner->high & mask.high) == outer->high && (inner->low & mask.low) == outer->low;
}

/* The prefixes from `begin` up to `end`. Of no prefixes at all the array is NULL. */
static void sweep_all(struct sweep *sweep, const struct cidr *prefixes, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++) {
        const struct cidr *prefix = &prefixes[i];
        while (sweep->depth > 0 && !is_in(prefix, sweep->open[sweep->depth - 1]))
            sweep_close(sweep);
        if (sweep->depth > 0 && sweep->open[sweep->depth - 1]->bits == prefix->bits)
            sweep->depth--; /* the same prefix: the later one counts */
        sweep->open[sweep->depth++] = prefix;
        sweep_set(sweep, (struct point){prefix->high, prefix->low}, !prefix->is_denied);
    }
    while (sweep->depth > 0)
        sweep_close(sweep);
}

/* IPv4 first, by address, outer prefixes before inner ones, and allowed before denied. */
static int compare_prefixes(const void *a, const void *b)
{
    const struct cidr *left = a, *right = b;
    if (left->is_v6 != right->is_v6)
        return left->is_v6 ? 1 : -1;
    if (left->high != right->high)
        return left->high > right->high ? 1 : -1;
    if (left->low != right->low)
        return left->low > right->low ? 1 : -1;
    if (left->bits != right->bits)
        return left->bits > right->bits ? 1 : -1;
    return (int)left->is_denied - (int)right->is_denied;
}

/* Copies the changes into the set. Of those of IPv4, one may lie behind the last address. */
static bool keep_v4(struct cidr_set *set, const struct sweep *sweep)
{
    set->v4_count = sweep->count;
    if (sweep->count > 0 && sweep->changes[sweep->count - 1].low > UINT32_MAX)
        set->v4_count--;
    set->v4 = malloc(MAX(set->v4_count, 1u) * sizeof(*set->v4));
    for (size_t i = 0; set->v4 != NULL && i < set->v4_count; i++)
        set->v4[i] = (uint32_t)sweep->changes[i].low;
    return set->v4 != NULL;
}

static bool keep_v6(struct cidr_set *set, const struct sweep *sweep)
{
    set->v6_count = sweep->count;
    set->v6 = malloc(MAX(set->v6_count, 1u) * sizeof(*set->v6));
    if (set->v6 != NULL)
        memcpy(set->v6, sweep->changes, set->v6_count * sizeof(*set->v6));
    return set->v6 != NULL;
}

int cidr_set_create(struct cidr *prefixes, size_t count, bool allows_others,
                    const struct cidr_set **ret)
{
    struct cidr_set *set = calloc(1, sizeof(*set));
    CLEANUP_FREE struct point *changes = calloc(2 * count + 1, sizeof(*changes));
    size_t v4_count = 0;
    if (set == NULL || changes == NULL) {
        free(set);
        return -ENOMEM;
    }
    set->users = 1;
    set->allows_others = allows_others;
    if (count > 0)
        qsort(prefixes, count, sizeof(*prefixes), compare_prefixes);
    while (v4_count < count && !prefixes[v4_count].is_v6)
        v4_count++;
    struct sweep v4 = {.changes = changes, .allows_others = allows_others}, v6 = v4;
    sweep_all(&v4, prefixes, 0, v4_count);
    bool is_kept = keep_v4(set, &v4);
    sweep_all(&v6, prefixes, v4_count, count);
    if (!is_kept || !keep_v6(set, &v6)) {
        cidr_set_drop(set);
        return -ENOMEM;
    }
    *ret = set;
    return 0;
}

/* ---- using a set ---- */

/* Takes const away from the count of users, which is all that changes. */
static struct cidr_set *cidr_set_own(const struct cidr_set *set)
{
    return (struct cidr_set *)(uintptr_t)set;
}

const struct cidr_set *cidr_set_use(const struct cidr_set *set)
{
    if (set != NULL)
        (void)atomic_fetch_add(&cidr_set_own(set)->users, 1);
    return set;
}

void cidr_set_drop(const struct cidr_set *set)
{
    if (set == NULL || atomic_fetch_sub(&cidr_set_own(set)->users, 1) > 1)
        return;
    free(set->v4);
    free(set->v6);
    free(cidr_set_own(set));
}

/* The number of changes up to the address. */
static size_t rank_v4(const struct cidr_set *set, uint32_t at)
{
    size_t low = 0, high = set->v4_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (set->v4[middle] <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static size_t rank_v6(const struct cidr_set *set, struct point at)
{
    size_t low = 0, high = set->v6_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        struct point change = set->v6[middle];
        if (change.high < at.high || (change.high == at.high && change.low <= at.low))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool cidr_set_allows(const struct cidr_set *set, const struct addr *addr)
{
    size_t rank;
    if (addr->len != 0 && addr->any.sa_family == AF_INET) {
        rank = rank_v4(set, ntohl(addr->v4.sin_addr.s_addr));
    } else if (addr->len != 0 && addr->any.sa_family == AF_INET6) {
        struct point at = point_of(addr->v6.sin6_addr.s6_addr);
        rank = is_mapped(at) ? rank_v4(set, (uint32_t)at.low) : rank_v6(set, at);
    } else {
        return false;
    }
    return set->allows_others != (rank % 2 != 0);
}

bool cidr_set_equal(const struct cidr_set *a, const struct cidr_set *b)
{
    if (a == b)
        return true;
    return a != NULL && b != NULL && a->allows_others == b->allows_others &&
           a->v4_count == b->v4_count && a->v6_count == b->v6_count &&
           memcmp(a->v4, b->v4, a->v4_count * sizeof(*a->v4)) == 0 &&
           memcmp(a->v6, b->v6, a->v6_count * sizeof(*a->v6)) == 0;
}
