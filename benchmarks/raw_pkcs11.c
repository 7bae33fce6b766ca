/* The yardstick: ECDSA P-256 over 32 bytes through PKCS#11 with nothing around it. One session, one
 * cached handle, C_SignInit + C_Sign in a loop.
 *
 *     printf 'PIN\ngo\n' | raw_pkcs11 MODULE SLOT SECONDS
 *
 * The PIN comes on standard input. Prints "ready" once logged in with a fresh key, waits for a
 * second line, signs for SECONDS, and prints: signatures, seconds, p50 and p99 in microseconds.
 * The few types it needs are those of PKCS#11 v2.40 on a 64-bit Unix.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long CK_ULONG;
typedef unsigned char CK_BYTE;
typedef struct { CK_ULONG type; void *value; CK_ULONG size; } CK_ATTRIBUTE;
typedef struct { CK_ULONG mechanism; void *parameter; CK_ULONG size; } CK_MECHANISM;

enum { CKF_RW_SESSION = 2, CKF_SERIAL_SESSION = 4, CKU_USER = 1 };
enum { CKM_EC_KEY_PAIR_GEN = 0x1040, CKM_ECDSA = 0x1041 };
enum { CKA_TOKEN = 1, CKA_PRIVATE = 2, CKA_SENSITIVE = 0x103, CKA_SIGN = 0x108,
       CKA_VERIFY = 0x10A, CKA_EC_PARAMS = 0x180 };

static void *module;

static void *function(const char *name) {
    void *found = dlsym(module, name);
    if (!found) {
        fprintf(stderr, "raw_pkcs11: the module has no %s\n", name);
        exit(1);
    }
    return found;
}

static void check(const char *what, CK_ULONG rv) {
    if (rv) {
        fprintf(stderr, "raw_pkcs11: %s: CKR 0x%lx\n", what, rv);
        exit(1);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: raw_pkcs11 MODULE SLOT SECONDS\n");
        return 2;
    }
    char pin[256], line[16];
    if (!fgets(pin, sizeof pin, stdin)) return 2;
    pin[strcspn(pin, "\n")] = 0;
    module = dlopen(argv[1], RTLD_NOW);
    if (!module) {
        fprintf(stderr, "raw_pkcs11: %s\n", dlerror());
        return 1;
    }
    CK_ULONG (*initialize)(void *) = function("C_Initialize");
    CK_ULONG (*open_session)(CK_ULONG, CK_ULONG, void *, void *, CK_ULONG *) =
        function("C_OpenSession");
    CK_ULONG (*login)(CK_ULONG, CK_ULONG, CK_BYTE *, CK_ULONG) = function("C_Login");
    CK_ULONG (*generate)(CK_ULONG, CK_MECHANISM *, CK_ATTRIBUTE *, CK_ULONG, CK_ATTRIBUTE *,
                         CK_ULONG, CK_ULONG *, CK_ULONG *) = function("C_GenerateKeyPair");
    CK_ULONG (*sign_init)(CK_ULONG, CK_MECHANISM *, CK_ULONG) = function("C_SignInit");
    CK_ULONG (*sign)(CK_ULONG, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *) = function("C_Sign");
    CK_ULONG (*destroy)(CK_ULONG, CK_ULONG) = function("C_DestroyObject");
    CK_ULONG (*finalize)(void *) = function("C_Finalize");

    CK_ULONG session, public_key, private_key;
    check("C_Initialize", initialize(NULL));
    check("C_OpenSession", open_session(strtoul(argv[2], NULL, 10),
                                        CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    check("C_Login", login(session, CKU_USER, (CK_BYTE *)pin, strlen(pin)));

    CK_BYTE yes = 1;
    CK_BYTE p256[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}; /* RFC 5480 */
    CK_ATTRIBUTE public_template[] = {{CKA_TOKEN, &yes, 1}, {CKA_VERIFY, &yes, 1},
                                      {CKA_EC_PARAMS, p256, sizeof p256}};
    CK_ATTRIBUTE private_template[] = {{CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &yes, 1},
                                       {CKA_SENSITIVE, &yes, 1}, {CKA_SIGN, &yes, 1}};
    CK_MECHANISM generation = {CKM_EC_KEY_PAIR_GEN, NULL, 0}, ecdsa = {CKM_ECDSA, NULL, 0};
    check("C_GenerateKeyPair", generate(session, &generation, public_template, 3, private_template,
                                        4, &public_key, &private_key));
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 1;

    CK_BYTE digest[32], signature[64];
    double limit = strtod(argv[3], NULL);
    size_t room = 1 << 20, count = 0;
    double *took = malloc(room * sizeof *took);
    if (!took) return 1;
    double start = now(), before = start;
    while (before - start < limit && count < room) {
        CK_ULONG size = sizeof signature;
        memset(digest, 0, sizeof digest);
        memcpy(digest, &count, sizeof count);
        check("C_SignInit", sign_init(session, &ecdsa, private_key));
        check("C_Sign", sign(session, digest, sizeof digest, signature, &size));
        double after = now();
        took[count++] = after - before;
        before = after;
    }
    double seconds = before - start;
    qsort(took, count, sizeof *took, by_value);
    printf("%zu %.6f %.1f %.1f\n", count, seconds, took[count / 2] * 1e6,
           took[count * 99 / 100] * 1e6);
    destroy(session, private_key);
    destroy(session, public_key);
    finalize(NULL);
    return 0;
}
