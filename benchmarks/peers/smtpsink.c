/* smtpsink: an SMTP server that takes mail and keeps nothing, for measurements; loopback only; one thread, epoll.
 *
 * It listens on every address of 127/8, and each address it is connected to counts as a server of its own: so one process is
 * a thousand sites. Every answer is late by a constant; a site may have limits, may defer or refuse a share of its recipients
 * (by a hash of the address, the same each time or, with -D, in the first minute alone), and may say nothing at all.
 *
 *   smtpsink [-d milliseconds] [-c connections a site] [-r messages a second and site] [-t percent deferred] [-D seconds]
 *            [-f percent refused] [-b address that accepts and never speaks] [-m messages, then end] PORT
 *
 * A line "stats" on standard input, and the end, print one JSON line: messages, recipients, deferred, refused, connections,
 * too_many (connections answered 421), too_fast (messages answered 450), most (connections at one site), open, elsewhere
 * (messages at the first thousand sites).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define IN_SIZE 65536

struct peer {
    int fd, site, in_body, taken, closing, waiting, match, in_len;
    double due;
    struct peer *next;
    size_t out_len, out_cap;
    char *out;
    char in[IN_SIZE];
};

static int port, delay_ms, per_site, per_second, deferred_share, refused_share, black_hole = -1, poller;
static long limit, messages, elsewhere, recipients, deferred, refused, connections, too_many, too_fast, most, alive;
static double defer_until = 1e300, started;
static int open_at[65536], sent_at[65536];
static time_t second_at[65536];
static struct peer *first, *last;

static void die(const char *what) { fprintf(stderr, "smtpsink: %s: %s\n", what, strerror(errno)); exit(2); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void tell(void) {
    printf("{\"messages\": %ld, \"recipients\": %ld, \"deferred\": %ld, \"refused\": %ld, \"connections\": %ld, \"too_many\": %ld, "
           "\"too_fast\": %ld, \"most\": %ld, \"open\": %ld, \"elsewhere\": %ld, \"seconds\": %.3f}\n",
           messages, recipients, deferred, refused, connections, too_many, too_fast, most, alive, elsewhere, now() - started);
    fflush(stdout);
}

static void gone(struct peer *p) {
    if (p->waiting) { p->closing = 2; return; } /* the queue of answers still has it */
    close(p->fd);
    open_at[p->site]--;
    alive--;
    free(p->out);
    free(p);
}

static void send_out(struct peer *p) {
    size_t at = 0;
    while (at < p->out_len) {
        ssize_t n = send(p->fd, p->out + at, p->out_len - at, MSG_NOSIGNAL);
        if (n <= 0) break; /* answers are small: a full socket means that nobody reads */
        at += n;
    }
    p->out_len = 0;
}

/* The delay is the same for all, so the queue of answers is in order. */
static void answer(struct peer *p, const char *text) {
    size_t n = strlen(text);
    if (p->out_len + n > p->out_cap) {
        p->out_cap = 2 * (p->out_len + n) + 256;
        if (!(p->out = realloc(p->out, p->out_cap))) die("realloc");
    }
    memcpy(p->out + p->out_len, text, n);
    p->out_len += n;
    if (delay_ms && !p->waiting) {
        p->waiting = 1;
        p->due = now() + delay_ms * 1e-3;
        p->next = NULL;
        if (last) last->next = p; else first = p;
        last = p;
    }
}

static unsigned hash(const char *text) {
    unsigned h = 2166136261u;
    for (; *text && *text != '>'; text++) h = (h ^ (unsigned char)tolower(*text)) * 16777619u;
    return h;
}

static void recipient(struct peer *p, const char *line) {
    const char *address = strchr(line, '<');
    unsigned share = hash(address ? address : line) / 7 % 100;
    if ((int)share < refused_share) {
        refused++;
        answer(p, "550 5.1.1 no such user\r\n");
    } else if ((int)share < refused_share + deferred_share && now() < defer_until) {
        deferred++;
        answer(p, "451 4.3.0 try again later\r\n");
    } else {
        p->taken++;
        answer(p, "250 2.1.5 ok\r\n");
    }
}

static int too_soon(int site) {
    time_t second = (time_t)now();
    if (!per_second) return 0;
    if (second_at[site] != second) { second_at[site] = second; sent_at[site] = 0; }
    return ++sent_at[site] > per_second;
}

static void command(struct peer *p, char *line) {
    if (!strncasecmp(line, "EHLO", 4)) answer(p, "250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE\r\n250 ENHANCEDSTATUSCODES\r\n");
    else if (!strncasecmp(line, "MAIL", 4)) { p->taken = 0; answer(p, "250 2.1.0 ok\r\n"); }
    else if (!strncasecmp(line, "RCPT", 4)) recipient(p, line);
    else if (!strncasecmp(line, "DATA", 4)) {
        if (!p->taken) answer(p, "503 5.5.1 no valid recipients\r\n");
        else { p->in_body = 1; p->match = 2; answer(p, "354 go on\r\n"); }
    } else if (!strncasecmp(line, "QUIT", 4)) { answer(p, "221 2.0.0 bye\r\n"); p->closing = 1; }
    else answer(p, "250 2.0.0 ok\r\n");
}

/* How many bytes of the body there are; the end is CRLF "." CRLF. `match` counts what of it was seen. */
static size_t body(struct peer *p, const char *data, size_t n) {
    static const char end[] = "\r\n.\r\n";
    for (size_t i = 0; i < n; i++) {
        if (p->match == 0) {
            const char *cr = memchr(data + i, '\r', n - i);
            if (!cr) return n;
            i = cr - data;
        }
        if (data[i] == end[p->match]) p->match++;
        else p->match = data[i] == '\r';
        if (p->match == 5) {
            p->in_body = 0;
            if (too_soon(p->site)) { too_fast++; answer(p, "450 4.7.1 too many messages, slow down\r\n"); }
            else { messages++; elsewhere += p->site < 1000; recipients += p->taken; answer(p, "250 2.0.0 taken\r\n"); }
            p->taken = 0;
            return i + 1;
        }
    }
    return n;
}

static void readable(struct peer *p) {
    ssize_t n = recv(p->fd, p->in + p->in_len, IN_SIZE - 1 - p->in_len, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { epoll_ctl(poller, EPOLL_CTL_DEL, p->fd, NULL); gone(p); return; }
    p->in_len += n;
    size_t at = 0, end = p->in_len;
    while (at < end && !p->closing) {
        if (p->in_body) { at += body(p, p->in + at, end - at); continue; }
        char *stop = memchr(p->in + at, '\n', end - at);
        if (!stop) break;
        *stop = 0;
        command(p, p->in + at);
        at = stop + 1 - p->in;
    }
    p->in_len = end - at;
    if (p->in_len == IN_SIZE - 1) { epoll_ctl(poller, EPOLL_CTL_DEL, p->fd, NULL); gone(p); return; }
    memmove(p->in, p->in + at, p->in_len);
    if (!p->waiting) {
        send_out(p);
        if (p->closing) { epoll_ctl(poller, EPOLL_CTL_DEL, p->fd, NULL); gone(p); }
    }
}

static void accept_all(int listener) {
    for (int i = 0; i < 256; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
        if (fd < 0) return;
        struct sockaddr_in here;
        socklen_t size = sizeof here;
        getsockname(fd, (void *)&here, &size);
        int site = ntohl(here.sin_addr.s_addr) & 0xffff;
        connections++;
        if (per_site && open_at[site] >= per_site) {
            static const char text[] = "421 4.7.0 too many connections from you\r\n";
            too_many++;
            (void)!send(fd, text, sizeof text - 1, MSG_NOSIGNAL);
            close(fd);
            continue;
        }
        struct peer *p = malloc(sizeof *p);
        if (!p) die("malloc");
        memset(p, 0, sizeof *p - IN_SIZE);
        p->fd = fd;
        p->site = site;
        alive++;
        if (++open_at[site] > most) most = open_at[site];
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
        if ((int)ntohl(here.sin_addr.s_addr) == black_hole) continue;
        answer(p, "220 sink ESMTP\r\n");
        if (!p->waiting) send_out(p);
    }
}

static void fire(void) {
    double t = now();
    while (first && first->due <= t) {
        struct peer *p = first;
        first = p->next;
        if (!first) last = NULL;
        p->waiting = 0;
        if (p->closing == 2) { gone(p); continue; }
        send_out(p);
        if (p->closing) { epoll_ctl(poller, EPOLL_CTL_DEL, p->fd, NULL); gone(p); }
    }
}

int main(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "d:c:r:t:D:f:b:m:")) > 0) switch (option) {
        case 'd': delay_ms = atoi(optarg); break;
        case 'c': per_site = atoi(optarg); break;
        case 'r': per_second = atoi(optarg); break;
        case 't': deferred_share = atoi(optarg); break;
        case 'D': defer_until = now() + atof(optarg); break;
        case 'f': refused_share = atoi(optarg); break;
        case 'b': black_hole = (int)ntohl(inet_addr(optarg)); break;
        case 'm': limit = atol(optarg); break;
        default: return 2;
    }
    if (optind >= argc) return fprintf(stderr, "smtpsink: which port?\n"), 2;
    port = atoi(argv[optind]);
    started = now();
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3); /* needs root; without it only the firewall keeps others out */
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) die("listen");
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll");
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &listener}, input = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &input);
    while (!limit || messages < limit || first) {
        struct epoll_event events[256];
        int wait = -1;
        if (first) {
            double left = first->due - now();
            wait = left <= 0 ? 0 : (int)(left * 1000) + 1;
        }
        int n = epoll_wait(poller, events, 256, wait);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &listener) accept_all(listener);
            else if (events[i].data.ptr) readable(events[i].data.ptr);
            else {
                char line[64];
                ssize_t got = read(0, line, sizeof line);
                if (got <= 0) { tell(); return 0; }
                tell();
            }
        }
        fire();
    }
    tell();
    return 0;
}
