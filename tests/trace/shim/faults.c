/* Fails the k-th call that touches a folder: loaded before libc (LD_PRELOAD), armed by `shim_arm`.
 *
 * Calls count that name a path below the folder or use a descriptor that one of them gave; others go
 * through untouched. `msync` counts always. A fault is an errno; or SHORT: a write that writes half;
 * or TORN: the same, and the next write fails with ENOSPC, as on a disk that has become full. A word
 * is written whole or not at all.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SHORT = -1, TORN = -2, WORD = 8, DESCRIPTORS = 4096, NAMES = 4096 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char folder[4096];
static long fail_at, calls;
static int fault, lasting, torn;
static char watched[DESCRIPTORS];
static char log_of_names[NAMES][16];

/* k: the call that fails, from 1; 0: none. lasting: all later ones that can fail like it do, too. */
void shim_arm(const char *below, long k, int with, int keeps_on) {
    pthread_mutex_lock(&mutex);
    strncpy(folder, below, sizeof folder - 1);
    fail_at = k, fault = with, lasting = keeps_on, calls = 0, torn = 0;
    pthread_mutex_unlock(&mutex);
}

void shim_disarm(void) { shim_arm("", 0, 0, 0); }

long shim_calls(void) { return calls; }

/* The name of the k-th call, from 1. */
const char *shim_name(long k) { return k >= 1 && k <= calls && k <= NAMES ? log_of_names[k - 1] : ""; }

/* Counts a call: 0, or the fault that it has to show. */
static int counted(const char *name, int writes) {
    pthread_mutex_lock(&mutex);
    long now = ++calls;
    if (now <= NAMES) strncpy(log_of_names[now - 1], name, sizeof log_of_names[0] - 1);
    int due = fail_at > 0 && (now == fail_at || (lasting && now > fail_at));
    int shows = due && (fault > 0 || writes) ? fault : 0;
    if (writes && torn) shows = ENOSPC;
    if (writes) torn = shows == TORN;
    /* A full disk doesn't keep anybody from removing or locking. */
    if (lasting && now > fail_at && !writes) shows = 0;
    pthread_mutex_unlock(&mutex);
    return shows;
}

static int is_below(const char *path) {
    return folder[0] && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_watched(int fd) { return folder[0] && fd >= 0 && fd < DESCRIPTORS && watched[fd]; }

static int opened(int fd, int below) {
    if (fd >= 0 && fd < DESCRIPTORS) watched[fd] = (char)below;
    return fd;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(condition, name, writes)                \
    do {                                                \
        int shown = (condition) ? counted(name, writes) : 0; \
        if (shown > 0) { errno = shown; return -1; }    \
    } while (0)

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                                       \
    int name(const char *path, int flags, ...) {                         \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = mode_of(flags, rest);                              \
        va_end(rest);                                                    \
        FAIL_IF(is_below(path), "open", 0);                              \
        return opened(REAL(name)(path, flags, mode), is_below(path));    \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                            \
    int name(int at, const char *path, int flags, ...) {                        \
        va_list rest;                                                           \
        va_start(rest, flags);                                                  \
        mode_t mode = mode_of(flags, rest);                                     \
        va_end(rest);                                                           \
        FAIL_IF(is_below(path), "openat", 0);                                   \
        return opened(REAL(name)(at, path, flags, mode), is_below(path));       \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    opened(fd, 0);
    return REAL(close)(fd);
}

#define WRITE(name, parameters, arguments, shorter, label)              \
    ssize_t name parameters {                                           \
        int shown = is_watched(fd) ? counted(label, 1) : 0;             \
        if (shown > 0) { errno = shown; return -1; }                    \
        if (shown < 0 && size > WORD) return REAL(name) shorter;      \
        return REAL(name) arguments;                                    \
    }
WRITE(write, (int fd, const void *bytes, size_t size), (fd, bytes, size), (fd, bytes, size / 2), "write")
WRITE(pwrite, (int fd, const void *bytes, size_t size, off_t at), (fd, bytes, size, at), (fd, bytes, size / 2, at), "pwrite")
WRITE(pwrite64, (int fd, const void *bytes, size_t size, off64_t at), (fd, bytes, size, at), (fd, bytes, size / 2, at), "pwrite")

ssize_t writev(int fd, const struct iovec *parts, int count) {
    FAIL_IF(is_watched(fd), "writev", 1);
    return REAL(writev)(fd, parts, count);
}

#define SIMPLE(name, label, writes, condition, parameters, arguments)   \
    int name parameters {                                               \
        FAIL_IF(condition, label, writes);                              \
        return REAL(name) arguments;                                    \
    }
SIMPLE(ftruncate, "ftruncate", 1, is_watched(fd), (int fd, off_t length), (fd, length))
SIMPLE(ftruncate64, "ftruncate", 1, is_watched(fd), (int fd, off64_t length), (fd, length))
SIMPLE(fallocate, "fallocate", 1, is_watched(fd), (int fd, int mode, off_t at, off_t length), (fd, mode, at, length))
SIMPLE(fallocate64, "fallocate", 1, is_watched(fd), (int fd, int mode, off64_t at, off64_t length), (fd, mode, at, length))
SIMPLE(fsync, "fsync", 1, is_watched(fd), (int fd), (fd))
SIMPLE(fdatasync, "fdatasync", 1, is_watched(fd), (int fd), (fd))
SIMPLE(msync, "msync", 1, folder[0] != 0, (void *start, size_t length, int flags), (start, length, flags))
SIMPLE(unlink, "unlink", 0, is_below(path), (const char *path), (path))
SIMPLE(rename, "rename", 0, is_below(from), (const char *from, const char *to), (from, to))
SIMPLE(mkdir, "mkdir", 1, is_below(path), (const char *path, mode_t mode), (path, mode))

/* Gives its error instead of setting errno. */
int posix_fallocate(int fd, off_t at, off_t length) {
    int shown = is_watched(fd) ? counted("posix_fallocate", 1) : 0;
    return shown > 0 ? shown : REAL(posix_fallocate)(fd, at, length);
}

#define FCNTL(name)                                                 \
    int name(int fd, int command, ...) {                            \
        va_list rest;                                               \
        va_start(rest, command);                                    \
        void *argument = va_arg(rest, void *);                      \
        va_end(rest);                                               \
        FAIL_IF(is_watched(fd) && command == F_SETLK, "fcntl", 0);  \
        return REAL(name)(fd, command, argument);                   \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

#define MMAP(name, offset)                                                                    \
    void *name(void *start, size_t length, int protection, int flags, int fd, offset at) {    \
        int shown = is_watched(fd) ? counted("mmap", 0) : 0;                                  \
        if (shown > 0) { errno = shown; return MAP_FAILED; }                                  \
        return REAL(name)(start, length, protection, flags, fd, at);                          \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)
