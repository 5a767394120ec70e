/* The fastest NATS subscriber there is to compare with: libnats, with an empty callback.
 *
 *     cc -O2 csubscriber.c -lnats -o csubscriber;  ./csubscriber URL COUNT
 *
 * Prints "ready", and "done" with its CPU seconds once COUNT messages have come.
 */
#include <nats/nats.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long wanted, seen;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t complete = PTHREAD_COND_INITIALIZER;

static void on_message(natsConnection *nc, natsSubscription *sub, natsMsg *msg, void *closure)
{
    (void) nc; (void) sub; (void) closure;
    natsMsg_Destroy(msg);
    if (++seen == wanted) {
        pthread_mutex_lock(&lock);
        pthread_cond_signal(&complete);
        pthread_mutex_unlock(&lock);
    }
}

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    natsConnection *nc = NULL;
    natsSubscription *sub = NULL;
    if (argc != 3)
        return 2;
    wanted = atol(argv[2]);
    if (natsConnection_ConnectTo(&nc, argv[1]) != NATS_OK
            || natsConnection_Subscribe(&sub, nc, "AlarmStatusChanged", on_message, NULL) != NATS_OK
            || natsSubscription_SetPendingLimits(sub, -1, -1) != NATS_OK
            || natsConnection_Flush(nc) != NATS_OK)
        return 1;
    puts("ready");
    fflush(stdout);
    double before = cpu_seconds();
    pthread_mutex_lock(&lock);
    while (seen < wanted)
        pthread_cond_wait(&complete, &lock);
    pthread_mutex_unlock(&lock);
    printf("done %f\n", cpu_seconds() - before);
    return 0;
}
