/* Loaded before libc: what the kernel would say of the described machine, where no file below its root can.

   Disks, device files, owners, the user, the number of CPUs, ports, names of the network, and calls that are
   denied or that never come back. Everything that the description leaves out goes to the real libc, and so does
   every path outside of the root. */
#define _GNU_SOURCE
#include "json.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/utsname.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const struct value *machine(void) { return find(host(), "libc"); }

/* Where `path` is inside the root, from its first slash on; NULL outside. */
static const char *inside(const char *path) {
    const char *root = text(machine(), "root");
    size_t size = root ? strlen(root) : 0;
    if (!size || !path || strncmp(path, root, size) || (path[size] && path[size] != '/'))
        return NULL;
    return path[size] ? path + size : "/";
}

/* The entry of a list whose "path" holds `path` and is the longest. */
static const struct value *around(const char *list, const char *path) {
    const struct value *best = NULL, *all = find(machine(), list);
    size_t most = 0;
    for (const struct value *it = path && all ? all->first : NULL; it; it = it->next) {
        const char *place = text(it, "path");
        size_t size = place ? strlen(place) : 0;
        if (!size || strncmp(path, place, size))
            continue;
        if ((size == 1 || !path[size] || path[size] == '/') && size >= most)
            best = it, most = size;
    }
    return best;
}

/* A dead network disk: the call waits for ever. */
static void wait_if_dead(const char *path) {
    const struct value *disk = around("disks", inside(path));
    while (number(disk, "hang", 0))
        pause();
}

static int denied(const char *path) {
    wait_if_dead(path);
    if (!inside(path) || !listed(find(machine(), "denied"), inside(path)))
        return 0;
    errno = EACCES;
    return 1;
}

int uname(struct utsname *answer) {
    int result = REAL(uname)(answer);
    if (text(machine(), "architecture")) {
        snprintf(answer->machine, sizeof answer->machine, "%s", text(machine(), "architecture"));
        snprintf(answer->release, sizeof answer->release, "%s", text(machine(), "kernel"));
    }
    return result;
}

uid_t geteuid(void) { return (uid_t)number(machine(), "user", (long)REAL(geteuid)()); }
uid_t getuid(void) { return (uid_t)number(machine(), "user", (long)REAL(getuid)()); }

int sched_getaffinity(pid_t process, size_t size, cpu_set_t *answer) {
    long count = number(machine(), "cpus", 0);
    if (!count)
        return REAL(sched_getaffinity)(process, size, answer);
    if (size * 8 < (size_t)count) /* who asks then tries again with more room */
        return errno = EINVAL, -1;
    CPU_ZERO_S(size, answer);
    for (long n = 0; n < count; n++)
        CPU_SET_S((size_t)n, size, answer);
    return 0;
}

/* ------------------------------------------------------------------------------------------------- files */

#define STATVFS(name, kind)                                                                                          \
    int name(const char *restrict path, struct kind *restrict answer) {                                              \
        wait_if_dead(path);                                                                                          \
        int result = REAL(name)(path, answer);                                                                       \
        const struct value *disk = around("disks", inside(path));                                                    \
        if (!result && disk) {                                                                                       \
            answer->f_bsize = answer->f_frsize = 4096;                                                               \
            answer->f_blocks = (fsblkcnt_t)number(disk, "size", 0) / 4096;                                           \
            answer->f_bfree = answer->f_bavail = (fsblkcnt_t)number(disk, "free", 0) / 4096;                         \
            answer->f_files = (fsfilcnt_t)number(disk, "inodes", 0);                                                 \
            answer->f_ffree = answer->f_favail = (fsfilcnt_t)number(disk, "free_inodes", 0);                         \
            answer->f_flag = number(disk, "read_only", 0) ? ST_RDONLY : 0;                                           \
        }                                                                                                            \
        return result;                                                                                               \
    }
STATVFS(statvfs, statvfs)
STATVFS(statvfs64, statvfs64)

/* Whose file it is, on which disk, and device files, which only root could make. */
#define CHANGE(path, answer)                                                                                         \
    do {                                                                                                             \
        const struct value *disk = around("disks", inside(path)), *owner = around("owners", inside(path));           \
        const struct value *node = around("nodes", inside(path));                                                    \
        if (disk)                                                                                                    \
            (answer)->st_dev = makedev(number(disk, "major", 0), number(disk, "minor", 0));                          \
        if (owner)                                                                                                   \
            (answer)->st_uid = (answer)->st_gid = (uid_t)number(owner, "user", 0);                                   \
        if (node) {                                                                                                  \
            (answer)->st_mode = S_IFCHR | 0666;                                                                      \
            (answer)->st_rdev = makedev(number(node, "major", 0), number(node, "minor", 0));                         \
        }                                                                                                            \
    } while (0)

#define STAT(name, kind)                                                                                             \
    int name(const char *restrict path, struct kind *restrict answer) {                                              \
        wait_if_dead(path);                                                                                          \
        int result = REAL(name)(path, answer);                                                                       \
        if (!result && inside(path))                                                                                 \
            CHANGE(path, answer);                                                                                    \
        return result;                                                                                               \
    }
STAT(stat, stat)
STAT(stat64, stat64)

#define STATAT(name, kind)                                                                                           \
    int name(int folder, const char *restrict path, struct kind *restrict answer, int flags) {                       \
        wait_if_dead(path);                                                                                          \
        int result = REAL(name)(folder, path, answer, flags);                                                        \
        if (!result && !(flags & AT_SYMLINK_NOFOLLOW) && inside(path))                                               \
            CHANGE(path, answer);                                                                                    \
        return result;                                                                                               \
    }
STATAT(fstatat, stat)
STATAT(fstatat64, stat64)

/* What programs call that were built for a glibc before 2.33, as many Pythons are. */
int __xstat64(int version, const char *path, struct stat64 *answer);
int __xstat64(int version, const char *path, struct stat64 *answer) {
    wait_if_dead(path);
    int result = REAL(__xstat64)(version, path, answer);
    if (!result && inside(path))
        CHANGE(path, answer);
    return result;
}

int access(const char *path, int mode) {
    const struct value *disk = around("disks", inside(path));
    if (denied(path))
        return -1;
    if (mode & W_OK && number(disk, "read_only", 0))
        return errno = EROFS, -1;
    const struct value *owner = around("owners", inside(path)); /* the real user may be root, or own all of it */
    if (mode & W_OK && owner && !around("nodes", inside(path)) && geteuid() && geteuid() != (uid_t)number(owner, "user", 0) && !number(owner, "open", 0))
        return errno = EACCES, -1;
    return REAL(access)(path, mode);
}

int faccessat(int folder, const char *path, int mode, int flags) {
    return denied(path) ? -1 : REAL(faccessat)(folder, path, mode, flags);
}

#define OPEN(name)                                                                                                   \
    int name(const char *path, int flags, ...) {                                                                     \
        va_list rest;                                                                                                \
        va_start(rest, flags);                                                                                       \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                      \
        va_end(rest);                                                                                                \
        return denied(path) ? -1 : REAL(name)(path, flags, mode);                                                    \
    }
OPEN(open)
OPEN(open64)

/* ----------------------------------------------------------------------------------------------- network */

/* No port is taken on the real machine, so that no answer depends on who else runs there. */
int bind(int number_, __CONST_SOCKADDR_ARG address, socklen_t size) {
    const struct sockaddr_in *it = (const void *)address.__sockaddr__;
    if (!machine() || it->sin_family != AF_INET || !it->sin_port)
        return REAL(bind)(number_, address, size);
    const struct value *busy = find(machine(), "ports");
    for (long n = 0; n < length(busy); n++)
        if ((int)item(busy, n)->number == ntohs(it->sin_port))
            return errno = EADDRINUSE, -1;
    return 0;
}

int connect(int number_, __CONST_SOCKADDR_ARG address, socklen_t size) {
    const struct sockaddr_un *it = (const void *)address.__sockaddr__;
    if (it->sun_family == AF_UNIX && it->sun_path[0] && listed(find(machine(), "denied"), it->sun_path))
        return errno = EACCES, -1;
    return REAL(connect)(number_, address, size);
}

/* `"names": {"huggingface.co": 43567}`: the port on 127.0.0.1 where that place is played; no other name is known.
   0: the question is never answered. */
int getaddrinfo(const char *restrict name, const char *restrict service, const struct addrinfo *restrict hints,
                struct addrinfo **restrict answer) {
    const struct value *names = find(machine(), "names");
    struct in6_addr numeric;
    char port[16];
    if (!names || !name || inet_pton(AF_INET, name, &numeric) || inet_pton(AF_INET6, name, &numeric))
        return REAL(getaddrinfo)(name, service, hints, answer);
    if (!find(names, name))
        return EAI_NONAME;
    while (!number(names, name, 0))
        pause();
    snprintf(port, sizeof port, "%ld", number(names, name, 0));
    return REAL(getaddrinfo)("127.0.0.1", port, hints, answer);
}
