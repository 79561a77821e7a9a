#include "base/list.h"

#include <criterion/criterion.h>

struct item {
    int number;
    struct list node;
};

static void expect_numbers(struct list *head, const int *numbers, size_t count)
{
    size_t i = 0;
    list_for_each (node, head) {
        cr_assert_lt(i, count);
        cr_expect_eq(container_of(node, struct item, node)->number, numbers[i]);
        i++;
    }
    cr_expect_eq(i, count);
    for (struct list *node = head->prev; node != head; node = node->prev)
        cr_expect_eq(container_of(node, struct item, node)->number, numbers[--i]);
    cr_expect_eq(i, 0);
}

Test(list, order)
{
    struct list head;
    struct item items[] = {{.number = 1}, {.number = 2}, {.number = 3}};
    list_init(&head);
    cr_expect(list_is_empty(&head));
    cr_expect_null(list_pop_front(&head));
    list_push_back(&head, &items[1].node);
    list_push_back(&head, &items[2].node);
    list_push_front(&head, &items[0].node);
    expect_numbers(&head, (const int[]){1, 2, 3}, 3);
    cr_expect_eq(list_pop_front(&head), &items[0].node);
    expect_numbers(&head, (const int[]){2, 3}, 2);
}

Test(list, remove_is_idempotent)
{
    struct list head;
    struct item items[] = {{.number = 1}, {.number = 2}, {.number = 3}};
    list_init(&head);
    for (size_t i = 0; i < ARRAY_SIZE(items); i++)
        list_push_back(&head, &items[i].node);
    list_remove(&items[1].node);
    list_remove(&items[1].node);
    expect_numbers(&head, (const int[]){1, 3}, 2);
    cr_expect(list_is_empty(&items[1].node));
}

Test(list, removal_while_walking)
{
    struct list head;
    struct item items[] = {{.number = 1}, {.number = 2}, {.number = 3}, {.number = 4}};
    list_init(&head);
    for (size_t i = 0; i < ARRAY_SIZE(items); i++)
        list_push_back(&head, &items[i].node);
    list_for_each_safe (node, &head) {
        if (container_of(node, struct item, node)->number % 2 == 0)
            list_remove(node);
    }
    expect_numbers(&head, (const int[]){1, 3}, 2);
    list_for_each_safe (node, &head)
        list_remove(node);
    cr_expect(list_is_empty(&head));
}

Test(list, move_all)
{
    struct list from, to;
    struct item items[] = {{.number = 1}, {.number = 2}, {.number = 3}};
    list_init(&from);
    list_init(&to);
    list_move_all(&to, &from);
    cr_expect(list_is_empty(&to));
    list_push_back(&to, &items[0].node);
    list_push_back(&from, &items[1].node);
    list_push_back(&from, &items[2].node);
    list_move_all(&to, &from);
    cr_expect(list_is_empty(&from));
    expect_numbers(&to, (const int[]){1, 2, 3}, 3);
    list_move_all(&from, &to);
    expect_numbers(&from, (const int[]){1, 2, 3}, 3);
}
