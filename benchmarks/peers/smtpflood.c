/* smtpflood: an open-loop SMTP load: connections begin at a fixed rate, whatever the server says; loopback only; epoll.
 *
 * Each connection sends one message, waits for every reply, and counts: taken, refused (a reply of 400 or more, where it said
 * so), lost (closed or silent for too long). Latency counts from the moment the connection was due, so a server that makes
 * clients wait does not look fast. Prints one JSON line with totals, latency in milliseconds, and what was taken in each second.
 *
 *   smtpflood [-r connections a second] [-s seconds] [-l body octets] [-w longest wait in seconds] [-t recipient]
 *             [-a first source address, of as many as -n says] PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BANNER, HELLO, MAIL, RCPT, DATA, BODY, END };

struct session {
    int fd, state, in_len;
    double due;
    size_t sent;
    struct session *next, *previous;
    char in[1024];
};

static int poller, port, sources = 1;
static double rate = 1000, seconds = 10, longest = 30;
static size_t text_len, body_len = 1024;
static char *text, *recipient = "user0@example.com";
static in_addr_t source;
static long begun, taken, refused, lost, five_hundreds, alive, most, latencies_len, taken_in[3600], refused_in[3600];
static double *latencies, started;
static struct session *oldest, *newest;

static void die(const char *what) { fprintf(stderr, "smtpflood: %s: %s\n", what, strerror(errno)); exit(2); }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void end(struct session *s) {
    close(s->fd);
    if (s->previous) s->previous->next = s->next; else oldest = s->next;
    if (s->next) s->next->previous = s->previous; else newest = s->previous;
    free(s);
    alive--;
}

static void begin(double due) {
    static long turn;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(ntohl(source) + turn++ % sources)};
    struct session *s = calloc(1, sizeof *s);
    int one = 1;
    if (!s) die("calloc");
    begun++;
    s->due = due;
    if ((s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0) { lost++; free(s); return; }
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (source) {
        setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(s->fd, (void *)&from, sizeof from)) die("bind");
    }
    if (connect(s->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) { lost++; close(s->fd); free(s); return; }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &e);
    s->previous = newest;
    if (newest) newest->next = s; else oldest = s;
    newest = s;
    if (++alive > most) most = alive;
}

static void say(struct session *s, const char *line) { (void)!send(s->fd, line, strlen(line), MSG_NOSIGNAL); s->state++; }

static void put_body(struct session *s) {
    while (s->sent < text_len) {
        ssize_t n = send(s->fd, text + s->sent, text_len - s->sent, MSG_NOSIGNAL);
        if (n <= 0) break;
        s->sent += n;
    }
    struct epoll_event e = {.events = EPOLLIN | (s->sent < text_len ? EPOLLOUT : 0), .data.ptr = s};
    epoll_ctl(poller, EPOLL_CTL_MOD, s->fd, &e);
}

static void answered(struct session *s, int code) {
    char line[400];
    int second = (int)(now() - started);
    if (second > 3599) second = 3599;
    if (code >= 400) {
        refused++;
        refused_in[second]++;
        five_hundreds += code >= 500;
        end(s);
        return;
    }
    switch (s->state) {
    case BANNER: say(s, "EHLO flood.example.org\r\n"); break;
    case HELLO: say(s, "MAIL FROM:<flood@example.org>\r\n"); break;
    case MAIL: snprintf(line, sizeof line, "RCPT TO:<%s>\r\n", recipient); say(s, line); break;
    case RCPT: say(s, "DATA\r\n"); break;
    case DATA: s->state = BODY; put_body(s); break;
    case BODY:
        taken++;
        taken_in[second]++;
        latencies[latencies_len++] = now() - s->due;
        say(s, "QUIT\r\n");
        break;
    default: end(s);
    }
}

static void readable(struct session *s) {
    ssize_t n = recv(s->fd, s->in + s->in_len, sizeof s->in - 1 - s->in_len, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { lost += s->state != END; end(s); return; }
    s->in_len += n;
    s->in[s->in_len] = 0;
    char *line = s->in, *stop;
    while ((stop = strchr(line, '\n'))) {
        if (stop - line < 4 || line[3] != '-') {
            s->in_len = 0;
            answered(s, atoi(line));
            return;
        }
        line = stop + 1;
    }
    s->in_len = s->in + s->in_len - line;
    memmove(s->in, line, s->in_len);
    if (s->in_len == sizeof s->in - 1) { lost++; end(s); }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void make_text(void) {
    text = malloc(body_len + 1024);
    text_len = sprintf(text, "From: <flood@example.org>\r\nTo: <user@example.com>\r\nDate: Mon, 23 Nov 2026 16:00:00 +0000\r\n"
                             "Message-ID: <%d@flood.example.org>\r\nSubject: flood\r\n\r\n", getpid());
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
    while ((option = getopt(argc, argv, "r:s:l:w:t:a:n:")) > 0) switch (option) {
        case 'r': rate = atof(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'l': body_len = atol(optarg); break;
        case 'w': longest = atof(optarg); break;
        case 't': recipient = optarg; break;
        case 'a': source = inet_addr(optarg); break;
        case 'n': sources = atoi(optarg); break;
        default: return 2;
    }
    if (optind >= argc) return fprintf(stderr, "smtpflood: which port?\n"), 2;
    port = atoi(argv[optind]);
    make_text();
    if (!(latencies = malloc(sizeof *latencies * (size_t)(rate * seconds + 10)))) die("malloc");
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll");
    started = now();
    for (;;) {
        double t = now() - started;
        int is_over = t >= seconds;
        for (int i = 0; i < 32 && !is_over && begun < t * rate; i++) begin(started + begun / rate);
        while (oldest && now() - oldest->due > longest) { lost += oldest->state != END; end(oldest); }
        if (is_over && !alive) break;
        struct epoll_event events[256];
        double next = is_over ? 0.1 : (begun + 1) / rate - t;
        int n = epoll_wait(poller, events, 256, next > 0.1 ? 100 : next > 0.001 ? (int)(next * 1000) : 0);
        for (int i = 0; i < n; i++) {
            struct session *s = events[i].data.ptr;
            if (events[i].events & EPOLLOUT && s->state == BODY && s->sent < text_len) put_body(s);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(s);
        }
    }
    qsort(latencies, latencies_len, sizeof *latencies, by_value);
#define AT(share) (latencies_len ? latencies[(long)((latencies_len - 1) * (share))] * 1000 : 0.0)
    printf("{\"begun\": %ld, \"taken\": %ld, \"refused\": %ld, \"lost\": %ld, \"five_hundreds\": %ld, \"most\": %ld, \"p50_ms\": %.1f, "
           "\"p99_ms\": %.1f, \"taken_in\": [", begun, taken, refused, lost, five_hundreds, most, AT(0.5), AT(0.99));
    int last = (int)(now() - started);
    for (int i = 0; i <= last && i < 3600; i++) printf("%s%ld", i ? ", " : "", taken_in[i]);
    printf("], \"refused_in\": [");
    for (int i = 0; i <= last && i < 3600; i++) printf("%s%ld", i ? ", " : "", refused_in[i]);
    printf("]}\n");
    return 0;
}
