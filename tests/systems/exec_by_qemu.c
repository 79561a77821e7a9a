/* Preloaded into programs of another machine that qemu-user runs: what they start of their own kind is started by
 * qemu-user too. Criterion runs each test in a new process of its program, and without this the kernel itself would
 * have to be told how to start one (binfmt_misc). QEMU: the path of qemu-user; QEMU_LD_PREFIX, which it knows itself:
 * where its libraries are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ARGUMENTS_MAX = 64 };

static bool is_own_kind(const char *path)
{
    Elf64_Ehdr header;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t size = read(fd, &header, sizeof(header));
    (void)close(fd);
    return size == (ssize_t)sizeof(header) && memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
           header.e_machine == EM_AARCH64;
}

int execve(const char *path, char *const argv[], char *const envp[])
{
    int (*next)(const char *, char *const[], char *const[]) = NULL;
    *(void **)&next = dlsym(RTLD_NEXT, "execve");
    const char *qemu = getenv("QEMU");
    char self[4096];
    /* The kernel's own answer would be qemu-user. */
    if (strcmp(path, "/proc/self/exe") == 0) {
        ssize_t size = readlink(path, self, sizeof(self) - 1);
        if (size < 0)
            return -1;
        self[size] = '\0';
        path = self;
    }
    if (qemu == NULL || !is_own_kind(path))
        return next(path, argv, envp);
    char *all[ARGUMENTS_MAX] = {(char *)qemu, "-0", argv[0], (char *)path};
    for (size_t count = 4, i = 1; argv[0] != NULL && argv[i] != NULL; i++, count++) {
        if (count == ARGUMENTS_MAX - 1) {
            errno = E2BIG;
            return -1;
        }
        all[count] = argv[i];
    }
    return next(qemu, all, envp);
}
