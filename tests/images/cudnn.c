/* Libraries with the names of cuDNN 9 and of the CUDA runtime, which find each other as the real ones do: the shim
   opens its parts by name, so that its own RUNPATH and LD_LIBRARY_PATH decide. One part for each -D. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

#ifdef SHIM
static int check(const char *part, const char *name) {
    void *library = dlopen(part, RTLD_NOW);
    int (*ask)(void) = library ? (int (*)(void))dlsym(library, name) : NULL;
    return ask ? ask() : 1001;
}
size_t cudnnGetVersion(void) { return SHIM; }
int cudnnGraphVersionCheck(void) { return check("libcudnn_graph.so.9", "part"); }
int cudnnOpsVersionCheck(void) { return check("libcudnn_ops.so.9", "part"); }
#endif

#ifdef PART
int part(void) { return PART; }
#endif

#ifdef GRAPH
int _ZN5cudnn5graph13LibraryLoader13loadLibrariesEv(void) {
    return dlopen("libcudnn_heuristic.so.9", RTLD_NOW) ? 0 : 1001;
}
#endif

#ifdef RUNTIME
int cudaRuntimeGetVersion(int *version) {
    *version = RUNTIME;
    return 0;
}
#endif

#ifdef FATBIN
__asm__(".section .nv_fatbin, \"a\"\n.balign 8\n.incbin \"" FATBIN "\"\n.previous");
#endif
