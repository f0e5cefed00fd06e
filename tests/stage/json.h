/* A small JSON reader, and how the fake libraries look things up in the description of a host.

   The file that STAGE_HOST names is read once and never freed. What it does not mention, the host does not
   have. Anything that is not JSON ends the process: a test should not go on with half a host. */
#ifndef STAGE_JSON_H
#define STAGE_JSON_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct value {
    char kind; /* n null, b boolean, d number, s text, a array, o object */
    double number;
    char *text;
    char *key; /* of a member of an object */
    struct value *first, *next;
};

static void json_broken(const char *at) {
    fprintf(stderr, "stage: STAGE_HOST is not JSON near: %.40s\n", at);
    abort();
}

static const char *json_space(const char *at) { return at + strspn(at, " \t\r\n"); }

/* Escapes are kept simple: \n, \t, \" and the like; \uXXXX below 128 only, as the writer escapes nothing else. */
static const char *json_text(const char *at, char **text) {
    char *out = *text = malloc(strlen(at) + 1);
    if (!out || *at++ != '"')
        json_broken(at);
    while (*at && *at != '"') {
        if (*at != '\\') {
            *out++ = *at++;
            continue;
        }
        at++;
        if (*at == 'u') {
            char digits[5] = {0};
            strncpy(digits, at + 1, 4);
            *out++ = (char)strtol(digits, NULL, 16);
            at += 5;
        } else {
            const char *found = strchr("n\nt\tr\rb\bf\f", *at);
            *out++ = found ? found[1] : *at;
            at++;
        }
    }
    *out = 0;
    return *at == '"' ? at + 1 : (json_broken(at), at);
}

static const char *json_value(const char *at, struct value **found) {
    struct value *it = *found = calloc(1, sizeof *it);
    at = json_space(at);
    if (!it)
        json_broken(at);
    if (*at == '{' || *at == '[') {
        char end = *at == '{' ? '}' : ']';
        struct value **last = &it->first;
        it->kind = *at == '{' ? 'o' : 'a';
        at = json_space(at + 1);
        while (*at != end) {
            char *key = NULL;
            if (it->kind == 'o') {
                at = json_space(json_text(at, &key));
                if (*at++ != ':')
                    json_broken(at);
            }
            at = json_space(json_value(at, last));
            (*last)->key = key;
            last = &(*last)->next;
            if (*at == ',')
                at = json_space(at + 1);
            else if (*at != end)
                json_broken(at);
        }
        return at + 1;
    }
    if (*at == '"') {
        it->kind = 's';
        return json_text(at, &it->text);
    }
    if (!strncmp(at, "null", 4))
        return it->kind = 'n', at + 4;
    if (!strncmp(at, "true", 4))
        return it->kind = 'b', it->number = 1, at + 4;
    if (!strncmp(at, "false", 5))
        return it->kind = 'b', at + 5;
    char *end;
    it->kind = 'd';
    it->number = strtod(at, &end);
    if (end == at)
        json_broken(at);
    return end;
}

static struct value *host_root;
static pthread_once_t host_once = PTHREAD_ONCE_INIT;

static void host_read(void) {
    const char *path = getenv("STAGE_HOST");
    FILE *file = path && *path ? fopen(path, "r") : NULL;
    if (!file)
        return;
    char *text = NULL;
    size_t size = 0, part;
    do {
        text = realloc(text, size + 65537);
        if (!text)
            abort();
        part = fread(text + size, 1, 65536, file);
        size += part;
    } while (part);
    text[size] = 0;
    fclose(file);
    json_value(text, &host_root);
    free(text);
}

/* The whole description; NULL when STAGE_HOST names none. */
static struct value *host(void) {
    pthread_once(&host_once, host_read);
    return host_root;
}

/* A member of an object; NULL when it is not there or null. */
static struct value *find(const struct value *object, const char *key) {
    if (object && object->kind == 'o')
        for (struct value *it = object->first; it; it = it->next)
            if (!strcmp(it->key, key))
                return it->kind == 'n' ? NULL : it;
    return NULL;
}

static __attribute__((unused)) struct value *item(const struct value *array, long place) {
    struct value *it = array && array->kind == 'a' && place >= 0 ? array->first : NULL;
    while (it && place-- > 0)
        it = it->next;
    return it && it->kind != 'n' ? it : NULL;
}

static __attribute__((unused)) long length(const struct value *array) {
    long count = 0;
    for (struct value *it = array && array->kind == 'a' ? array->first : NULL; it; it = it->next)
        count++;
    return count;
}

static __attribute__((unused)) long number(const struct value *object, const char *key, long otherwise) {
    struct value *it = find(object, key);
    return it ? (long)it->number : otherwise;
}

static __attribute__((unused)) const char *text(const struct value *object, const char *key) {
    struct value *it = find(object, key);
    return it && it->kind == 's' ? it->text : NULL;
}

static __attribute__((unused)) int listed(const struct value *array, const char *word) {
    for (struct value *it = array && array->kind == 'a' ? array->first : NULL; it; it = it->next)
        if (it->kind == 's' && !strcmp(it->text, word))
            return 1;
    return 0;
}

/* The error that `function` ends with for this device (NULL: for none), 0: it works. A hung one never returns.
   `"errors": {"*": 15}` of a device is for every function. */
static __attribute__((unused)) int refused(const struct value *device, const char *function) {
    const struct value *places[] = {device, host()};
    for (int n = 0; n < 2; n++) {
        while (listed(find(places[n], "hang"), function))
            pause();
        const struct value *errors = find(places[n], "errors");
        long code = number(errors, function, number(errors, n ? "" : "*", 0));
        if (code)
            return (int)code;
    }
    return 0;
}

#endif
