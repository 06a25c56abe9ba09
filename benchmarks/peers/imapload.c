/* imapload: a closed-loop IMAP load for measurements; loopback only; a thread for each session, blocking sockets.
 *
 * Each session logs in, sends the set-up commands, and then one measured command after another, waiting for each tagged reply.
 * Prints one JSON line: operations, failures, seconds, rate, octets received, latency percentiles in milliseconds.
 *
 *   imapload [-c sessions] [-n operations a session] [-w seconds] [-U user] [-P password] [-S set-up command]...
 *            (-x command [-x command]... | -a octets [-m mailbox] | -L) PORT
 *
 *   -x  measured command; %d becomes 1, 2, 3 ...; of several, each has its turn
 *   -a  measured command is APPEND of a message of so many octets, each of its own
 *   -L  measured is: connect, log in, set-up commands, LOGOUT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 20)
#define MAX_SETUP 8
#define MAX_COMMANDS 4
#define TAG "zq9 "

static const char *user = "user0", *password = "x", *commands[MAX_COMMANDS], *mailbox = "INBOX", *setup[MAX_SETUP];
static int setup_count, command_count, sessions = 1, operations = 1000000, append_octets, is_login, port;
static double end_at, limit_seconds = 60;
static char *message;
static int message_octets;

struct session {
    pthread_t thread;
    int number, fd;
    long done, failed, octets;
    double begun_at, ended_at, *latencies;
    char *buffer;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Read until the last line that is here starts with `start`: nobody says more before we do, so nothing has to be searched, and a
 * generator that shares the cores with the server costs little. 1 when "OK" follows it, 0 when not, -1 at the end of input. */
static int wait_line(struct session *s, const char *start)
{
    size_t have = 0, length = strlen(start);
    for (;;) {
        ssize_t got = recv(s->fd, s->buffer + have, BUFFER - have, 0);
        if (got <= 0)
            return -1;
        s->octets += got;
        have += (size_t)got;
        if (s->buffer[have - 1] == '\n') {
            char *before = memrchr(s->buffer, '\n', have - 1), *line = before ? before + 1 : s->buffer;
            size_t size = (size_t)(s->buffer + have - line);
            if (size > length + 2 && !memcmp(line, start, length)) {
                if (*start == '+' || *start == '*' || !memcmp(line + length, "OK", 2))
                    return 1;
                fprintf(stderr, "reply: %.*s\n", (int)size, line);
                return 0;
            }
        }
        if (have > 4096) { /* keep the end, where a line may have begun */
            memmove(s->buffer, s->buffer + have - 4096, 4096);
            have = 4096;
        }
    }
}

static int say(struct session *s, const char *text)
{
    char line[4096];
    int size = snprintf(line, sizeof line, TAG "%s\r\n", text);
    return send(s->fd, line, (size_t)size, MSG_NOSIGNAL) == size ? wait_line(s, TAG) : -1;
}

static int begin(struct session *s)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {60, 0};
    int on = 1;
    char line[512];
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(s->fd, (struct sockaddr *)&address, sizeof address) || wait_line(s, "* ") != 1)
        return 0;
    snprintf(line, sizeof line, "LOGIN \"%s\" \"%s\"", user, password);
    if (say(s, line) != 1)
        return 0;
    for (int i = 0; i < setup_count; i++)
        if (say(s, setup[i]) != 1)
            return 0;
    return 1;
}

static int append(struct session *s, long number)
{
    char line[256];
    int size = snprintf(line, sizeof line, TAG "APPEND %s {%d}\r\n", mailbox, message_octets);
    if (send(s->fd, line, (size_t)size, MSG_NOSIGNAL) != size || wait_line(s, "+") != 1)
        return 0;
    char *mine = malloc((size_t)message_octets + 2);
    memcpy(mine, message, (size_t)message_octets);
    memcpy(mine + message_octets, "\r\n", 2);
    snprintf(line, sizeof line, "%03d%07ld", s->number % 1000, number % 10000000);
    memcpy(memmem(mine, (size_t)message_octets, "SEQSEQSEQ0", 10), line, 10);
    snprintf(line, sizeof line, "word%06ld", number % 1000000);
    memcpy(memmem(mine, (size_t)message_octets, "WRDSEQSEQ0", 10), line, 10);
    size_t sent = 0, all = (size_t)message_octets + 2;
    while (sent < all) {
        ssize_t n = send(s->fd, mine + sent, all - sent, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        sent += (size_t)n;
    }
    free(mine);
    return sent == all && wait_line(s, TAG) == 1;
}

static void *run(void *argument)
{
    struct session *s = argument;
    char line[4096];
    s->buffer = malloc(BUFFER + 1);
    s->latencies = malloc(sizeof(double) * (size_t)(operations + 1));
    if (!is_login && !begin(s)) {
        s->failed++;
        return NULL;
    }
    s->begun_at = now();
    for (long i = 0; i < operations && now() < end_at; i++) {
        double before = now();
        int good;
        if (is_login) {
            good = begin(s);
            if (good)
                say(s, "LOGOUT");
            close(s->fd);
        } else if (append_octets) {
            good = append(s, i);
        } else {
            snprintf(line, sizeof line, commands[i % command_count], (int)i + 1);
            good = say(s, line) == 1;
        }
        if (!good && ++s->failed > 3)
            break;
        if (good)
            s->latencies[s->done++] = now() - before;
    }
    s->ended_at = now();
    if (!is_login) {
        say(s, "LOGOUT");
        close(s->fd);
    }
    return NULL;
}

static void make_message(void)
{
    message = malloc((size_t)append_octets + 2048);
    int n = sprintf(message,
        "Return-Path: <alice@example.org>\r\n"
        "Received: from x (x [192.0.2.1]) by mx.example.com with ESMTP id 4AbC; Mon, 23 Nov 2026 16:00:00 +0000\r\n"
        "From: Alice Example <alice@example.org>\r\nTo: Bob Example <bob@example.com>, Carol <carol@example.com>\r\n"
        "Cc: dave@example.com\r\nSubject: a message about quarterly figures\r\nDate: Mon, 23 Nov 2026 16:00:00 +0000\r\n"
        "Message-ID: <SEQSEQSEQ0.%d@example.org>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/alternative; boundary=\"b1\"\r\n\r\n"
        "--b1\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello world, these are the figures WRDSEQSEQ0.\r\n", getpid());
    while (n < append_octets - 120) {
        memset(message + n, 'y', 70);
        memcpy(message + n + 70, "\r\n", 2);
        n += 72;
    }
    n += sprintf(message + n, "--b1\r\nContent-Type: text/html\r\n\r\n<p>x</p>\r\n--b1--\r\n");
    message_octets = n;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int count, char **arguments)
{
    int option;
    while ((option = getopt(count, arguments, "c:n:w:U:P:S:x:a:m:L")) > 0)
        switch (option) {
        case 'c': sessions = atoi(optarg); break;
        case 'n': operations = atoi(optarg); break;
        case 'w': limit_seconds = atof(optarg); break;
        case 'U': user = optarg; break;
        case 'P': password = optarg; break;
        case 'S':
            if (setup_count < MAX_SETUP)
                setup[setup_count++] = optarg;
            break;
        case 'x':
            if (command_count < MAX_COMMANDS)
                commands[command_count++] = optarg;
            break;
        case 'a': append_octets = atoi(optarg); break;
        case 'm': mailbox = optarg; break;
        case 'L': is_login = 1; break;
        default: return 2;
        }
    if (optind >= count || (!command_count && !append_octets && !is_login))
        return 2;
    port = atoi(arguments[optind]);
    if (append_octets)
        make_message();
    end_at = now() + limit_seconds;
    struct session *all = calloc((size_t)sessions, sizeof *all);
    for (int i = 0; i < sessions; i++) {
        all[i].number = i;
        pthread_create(&all[i].thread, NULL, run, &all[i]);
    }
    double first = 1e18, last = 0;
    long done = 0, failed = 0, octets = 0;
    for (int i = 0; i < sessions; i++) {
        pthread_join(all[i].thread, NULL);
        done += all[i].done;
        failed += all[i].failed;
        octets += all[i].octets;
        if (all[i].begun_at && all[i].begun_at < first)
            first = all[i].begun_at;
        if (all[i].ended_at > last)
            last = all[i].ended_at;
    }
    double *latencies = malloc(sizeof(double) * (size_t)(done + 1));
    long at = 0;
    for (int i = 0; i < sessions; i++)
        for (long k = 0; k < all[i].done; k++)
            latencies[at++] = all[i].latencies[k];
    qsort(latencies, (size_t)done, sizeof(double), by_value);
    double seconds = last > first ? last - first : 0;
    printf("{\"ops\": %ld, \"failed\": %ld, \"seconds\": %.4f, \"rate\": %.2f, \"octets\": %ld, \"p50_ms\": %.3f, \"p99_ms\": %.3f}\n",
        done, failed, seconds, seconds > 0 ? (double)done / seconds : 0.0, octets, done ? latencies[done / 2] * 1e3 : 0.0,
        done ? latencies[(long)((double)done * .99)] * 1e3 : 0.0);
    return failed > 0 || !done;
}
