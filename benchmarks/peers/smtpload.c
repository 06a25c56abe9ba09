/* smtpload: a closed-loop SMTP and LMTP load for measurements; loopback only; one thread, epoll.
 *
 * Each session sends one message after another. Without -p it waits for every reply; with -p MAIL, RCPT and DATA leave in one
 * segment. Prints one JSON line: messages, failures, seconds, rate, latency percentiles in milliseconds (MAIL to the final reply).
 *
 *   smtpload [-p] [-L] [-c sessions] [-m messages] [-l body octets] [-k messages a connection] [-u users] [-f sender]
 *            [-t recipient with %d] [-w seconds] PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { BANNER, HELLO, MAIL, RCPT, DATA, ENVELOPE, BODY, QUIT };

struct session {
    int fd, replies_due, sent_here, in_len;
    enum state state;
    double started_at;
    char in[4096], rcpt[320];
    char *out;
    size_t out_len, out_pos, out_cap;
};

static int pipelining, lmtp, sessions = 1, per_connection, users = 1, port, poller, alive, failures;
static long total = 100, started, done;
static size_t body_len = 1024, text_len;
static char *text, *sender = "load@example.org", *recipient = "user%d@example.com";
static double *latencies, deadline_seconds = 120;

static void die(const char *what) { fprintf(stderr, "smtpload: %s: %s\n", what, strerror(errno)); exit(2); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void put(struct session *s, const char *data, size_t n) {
    if (s->out_len + n > s->out_cap) {
        s->out_cap = 2 * (s->out_len + n);
        if (!(s->out = realloc(s->out, s->out_cap))) die("realloc");
    }
    memcpy(s->out + s->out_len, data, n);
    s->out_len += n;
}

static void flush(struct session *s) {
    while (s->out_pos < s->out_len) {
        ssize_t n = send(s->fd, s->out + s->out_pos, s->out_len - s->out_pos, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) die("send");
        s->out_pos += n;
    }
    int pending = s->out_pos < s->out_len;
    if (!pending) s->out_pos = s->out_len = 0;
    struct epoll_event e = {.events = EPOLLIN | (pending ? EPOLLOUT : 0), .data.ptr = s};
    epoll_ctl(poller, EPOLL_CTL_MOD, s->fd, &e);
}

static void say(struct session *s, enum state next, int replies, const char *line) {
    put(s, line, strlen(line));
    s->state = next;
    s->replies_due = replies;
}

static void open_session(struct session *s) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    if ((s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) < 0) die("socket");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(s->fd, (void *)&address, sizeof address) && errno != EINPROGRESS) die("connect");
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &e);
    s->state = BANNER;
    s->replies_due = 1;
    s->in_len = s->sent_here = 0;
    s->out_len = s->out_pos = 0;
    alive++;
}

static void close_session(struct session *s) {
    close(s->fd);
    alive--;
    if (started < total) open_session(s);
}

static void next_message(struct session *s) {
    char line[512], address[256];
    if (started >= total || (per_connection && s->sent_here >= per_connection)) {
        say(s, QUIT, 1, "QUIT\r\n");
        flush(s);
        return;
    }
    s->started_at = now();
    s->sent_here++;
    snprintf(address, sizeof address, recipient, (int)(started++ % users));
    snprintf(line, sizeof line, "MAIL FROM:<%s>\r\n", sender);
    say(s, MAIL, 1, line);
    snprintf(s->rcpt, sizeof s->rcpt, "RCPT TO:<%s>\r\n", address);
    if (pipelining) {
        put(s, s->rcpt, strlen(s->rcpt));
        say(s, ENVELOPE, 3, "DATA\r\n");
    }
    flush(s);
}

static void answered(struct session *s) {
    switch (s->state) {
    case BANNER: say(s, HELLO, 1, lmtp ? "LHLO load.example.org\r\n" : "EHLO load.example.org\r\n"); break;
    case HELLO: next_message(s); return;
    case MAIL: say(s, RCPT, 1, s->rcpt); break;
    case RCPT: say(s, DATA, 1, "DATA\r\n"); break;
    case ENVELOPE:
    case DATA:
        put(s, text, text_len);
        s->state = BODY;
        s->replies_due = 1;
        break;
    case BODY:
        latencies[done++] = now() - s->started_at;
        next_message(s);
        return;
    case QUIT: close_session(s); return;
    }
    flush(s);
}

static void readable(struct session *s) {
    ssize_t n = recv(s->fd, s->in + s->in_len, sizeof s->in - 1 - s->in_len, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        failures += s->state != QUIT;
        if (failures > 20) die("the server closes sessions");
        close_session(s);
        return;
    }
    s->in_len += n;
    s->in[s->in_len] = 0;
    char *line = s->in, *end;
    while ((end = strchr(line, '\n'))) {
        int last = end - line < 4 || line[3] != '-';
        if (last && atoi(line) >= 400) {
            fprintf(stderr, "smtpload: %.80s\n", line);
            if (++failures > 20) die("too many refusals");
        }
        if (last && --s->replies_due == 0) {
            s->in_len = 0; /* closed loop: nothing may follow the last reply */
            answered(s);
            return;
        }
        line = end + 1;
    }
    s->in_len = s->in + s->in_len - line;
    memmove(s->in, line, s->in_len);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void make_text(void) {
    text = malloc(body_len + 1024);
    text_len = sprintf(text, "From: <%s>\r\nTo: <user@example.com>\r\nDate: Mon, 23 Nov 2026 16:00:00 +0000\r\n"
                             "Message-ID: <%d.%ld@load.example.org>\r\nSubject: load\r\n\r\n", sender, getpid(), (long)time(0));
    while (text_len + 2 < body_len) {
        size_t n = body_len - text_len - 2 < 76 ? body_len - text_len - 2 : 76;
        memset(text + text_len, 'X', n);
        memcpy(text + text_len + n, "\r\n", 2);
        text_len += n + 2;
    }
    memcpy(text + text_len, ".\r\n", 3);
    text_len += 3;
}

int main(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "pLc:m:l:k:u:f:t:w:")) > 0) switch (option) {
        case 'p': pipelining = 1; break;
        case 'L': lmtp = 1; break;
        case 'c': sessions = atoi(optarg); break;
        case 'm': total = atol(optarg); break;
        case 'l': body_len = atol(optarg); break;
        case 'k': per_connection = atoi(optarg); break;
        case 'u': users = atoi(optarg); break;
        case 'f': sender = optarg; break;
        case 't': recipient = optarg; break;
        case 'w': deadline_seconds = atof(optarg); break;
        default: return 2;
    }
    if (optind >= argc) return fprintf(stderr, "smtpload: which port?\n"), 2;
    port = atoi(argv[optind]);
    make_text();
    latencies = calloc(total + 1, sizeof *latencies);
    poller = epoll_create1(0);
    struct session *all = calloc(sessions, sizeof *all);
    double begin = now();
    for (int i = 0; i < sessions; i++) open_session(all + i);
    struct epoll_event events[256];
    while (alive && done < total && now() - begin < deadline_seconds) {
        int n = epoll_wait(poller, events, 256, 1000);
        for (int i = 0; i < n; i++) {
            struct session *s = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) flush(s);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(s);
        }
    }
    double seconds = now() - begin;
    qsort(latencies, done, sizeof *latencies, by_value);
    printf("{\"messages\": %ld, \"failures\": %d, \"seconds\": %.4f, \"rate\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f}\n", done,
           failures, seconds, done / seconds, done ? latencies[done / 2] * 1e3 : 0, done ? latencies[done * 99 / 100] * 1e3 : 0);
    return done < total || failures > 0;
}
