/* The calls of io/socket.h that move bytes, with faults. The linker wraps the real ones (--wrap,
 * see meson.build). */
#include <assert.h>
#include <errno.h>

#include "fake_priv.h"
#include "io/pipe_pool.h"
#include "io/socket.h"
#include "io/socket_life.h"

ssize_t __real_socket_recv_now(int fd, void *buffer, size_t size);
ssize_t __real_socket_send_now(int fd, const void *data, size_t size);
ssize_t __real_socket_send_more(int fd, const void *data, size_t size);
ssize_t __real_socket_splice_in(int fd, struct pipe *pipe, size_t max);
ssize_t __real_socket_splice_out(struct pipe *pipe, int fd);
ssize_t __wrap_socket_recv_now(int fd, void *buffer, size_t size);
ssize_t __wrap_socket_send_now(int fd, const void *data, size_t size);
ssize_t __wrap_socket_send_more(int fd, const void *data, size_t size);
ssize_t __wrap_socket_splice_in(int fd, struct pipe *pipe, size_t max);
ssize_t __wrap_socket_splice_out(struct pipe *pipe, int fd);

static fake_life_fn *answer_life;
static size_t looks;

void fake_socket_set_life(fake_life_fn *life)
{
    answer_life = life;
}

size_t fake_socket_looks(void)
{
    return looks;
}

int __real_socket_life(int fd, struct socket_life *ret);
int __wrap_socket_life(int fd, struct socket_life *ret);

int __wrap_socket_life(int fd, struct socket_life *ret)
{
    looks++;
    return answer_life != NULL ? answer_life(fd, ret) : __real_socket_life(fd, ret);
}

int __real_socket_connect_now(int fd, const struct addr *to);
int __wrap_socket_connect_now(int fd, const struct addr *to);

int __wrap_socket_connect_now(int fd, const struct addr *to)
{
    struct loop *loop = fake_current();
    if (loop != NULL && fake_connect_fault(loop))
        return -ECONNREFUSED;
    return __real_socket_connect_now(fd, to);
}

ssize_t __wrap_socket_recv_now(int fd, void *buffer, size_t size)
{
    struct loop *loop = fake_current();
    int fault = loop != NULL ? fake_byte_fault(loop, false) : 0;
    if (fault < 0)
        return fault;
    return __real_socket_recv_now(fd, buffer, loop != NULL ? fake_short(loop, size) : size);
}

ssize_t __wrap_socket_send_now(int fd, const void *data, size_t size)
{
    struct loop *loop = fake_current();
    int fault = loop != NULL ? fake_byte_fault(loop, true) : 0;
    if (fault < 0)
        return fault;
    return __real_socket_send_now(fd, data, loop != NULL ? fake_short(loop, size) : size);
}

ssize_t __wrap_socket_send_more(int fd, const void *data, size_t size)
{
    struct loop *loop = fake_current();
    int fault = loop != NULL ? fake_byte_fault(loop, true) : 0;
    if (fault < 0)
        return fault;
    return __real_socket_send_more(fd, data, loop != NULL ? fake_short(loop, size) : size);
}

ssize_t __wrap_socket_splice_in(int fd, struct pipe *pipe, size_t max)
{
    struct loop *loop = fake_current();
    int fault = loop != NULL ? fake_byte_fault(loop, false) : 0;
    if (fault < 0)
        return fault;
    return __real_socket_splice_in(fd, pipe, loop != NULL ? fake_short(loop, max) : max);
}

ssize_t __wrap_socket_splice_out(struct pipe *pipe, int fd)
{
    struct loop *loop = fake_current();
    int fault = loop != NULL ? fake_byte_fault(loop, true) : 0;
    if (fault < 0)
        return fault;
    assert(pipe->pending_bytes > 0);
    size_t all = pipe->pending_bytes;
    size_t part = loop != NULL ? fake_short(loop, all) : all;
    pipe->pending_bytes = part;
    ssize_t sent = __real_socket_splice_out(pipe, fd);
    pipe->pending_bytes += all - part;
    return sent;
}
