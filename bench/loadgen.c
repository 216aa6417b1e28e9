/* loadgen: the load generator of gevpy's benchmarks.
 *
 * One thread, one epoll set, no dependency. Every connection works in batches: `depth` messages leave
 * in one send, and the next batch leaves when all their echoes have come back, so `depth` is the
 * number of messages in flight per connection. Every echoed byte is compared with what was sent; the
 * contents depend on the connection and on the message's number, so an echo that is lost, repeated,
 * reordered or given to another connection is an error, not a number.
 *
 *   --work echo      send batches for --seconds (or until --messages echoes)
 *   --work accept    connect, one echo, close, again and again
 *   --work connect   connect, close, again and again
 *   --work idle      open --connections (with --message: one echo each), print {"ready": true}, hold
 *                    them until standard input closes or the server has closed all of them
 *   --work broadcast open --connections, then, again and again: one of them sends a message whose first byte
 *                    is --depth, the server sends that message to all of them so often (one turn of its
 *                    loop), and the next turn begins when every connection has got everything
 *
 * The measured interval begins after --warmup seconds. With --server-pid (repeatable) the server's CPU
 * time is read at both of its ends: each process's and their total from the CPU clocks (nanoseconds), and
 * the split into user and system from /proc/PID/stat, whose ticks (10 ms) the kernel samples.
 *
 * One JSON line goes to standard output (two for idle). It speaks to 127.0.0.0/8 and ::1 only, and
 * its life is bounded: by its own deadlines, and by alarm() should they fail.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ULL
#define STALL_LIMIT_S 10       /* no byte for so long: the server hangs, give up */
#define CONNECT_LIMIT_S 5      /* one connect may take so long */
#define SCRATCH_BYTES (256 * 1024)
#define MAX_EVENTS 256
#define MAX_SERVER_PIDS 16
#define IDLE_CONNECTS_PER_S 5000  /* gentler than any listen queue is short */
#define FULL_STAMP_BYTES 4096  /* larger messages are stamped at every STAMP_STRIDE-th word only */
#define STAMP_STRIDE 64

enum work { WORK_ECHO, WORK_ACCEPT, WORK_CONNECT, WORK_IDLE, WORK_BROADCAST };
enum mode { MODE_TCP, MODE_LENGTH_PREFIX, MODE_LINE, MODE_WEBSOCKET };

static const char *const WORK_NAMES[] = {"echo", "accept", "connect", "idle", "broadcast"};
static const char *const MODE_NAMES[] = {"tcp", "length_prefix", "line", "websocket"};

/* The key of RFC 6455 section 1.3 and the answer every server must give to it. */
static const char WEBSOCKET_KEY[] = "dGhlIHNhbXBsZSBub25jZQ==";
static const char WEBSOCKET_ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

static struct {
    enum work work;
    enum mode mode;
    const char *host;
    int port;
    int connections;
    size_t size;
    int depth;
    double seconds;
    double warmup;
    uint64_t messages;
    int sources;
    bool message;
    bool deflate;
    int server_pid[MAX_SERVER_PIDS];
    int server_pids;
} options = {
    .work = WORK_ECHO, .mode = MODE_TCP, .host = "127.0.0.1", .connections = 50,
    .size = 64, .depth = 1, .seconds = 2.0, .warmup = 0.3,
};

struct connection {
    int fd;             /* -1: closed */
    uint32_t id;
    bool upgraded;      /* always true outside WebSocket */
    bool wants_write;
    bool answered;      /* idle: its one message came back */
    uint64_t sequence;  /* number of the next batch's first message */
    uint64_t sent_at, received_at, visit_began_at;
    unsigned char *out, *expected; /* one buffer where both directions carry the same bytes */
    size_t out_done, expected_done;
    size_t reply_bytes; /* of the handshake's answer, while not upgraded */
};

struct cpu {
    uint64_t total_ns, each_ns[MAX_SERVER_PIDS];
    uint64_t user_ticks, system_ticks;
};

static int epoll_fd;
static unsigned char scratch[SCRATCH_BYTES];
static size_t out_unit, expected_unit;     /* wire bytes of one message, there and back */
static size_t out_header, expected_header; /* of which framing before the payload */
static struct sockaddr_storage server_address;
static socklen_t server_address_bytes;

/* ---- errors, time, CPU ------------------------------------------------------------------------ */

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
            *c = '\'';
    printf("{\"error\": \"%s\"}\n", text);
    fflush(stdout);
    _exit(1);
}

static void on_alarm(int signal_number)
{
    (void)signal_number;
    static const char text[] = "{\"error\": \"out of time\"}\n";
    if (write(STDOUT_FILENO, text, sizeof text - 1) < 0)
        _exit(2);
    _exit(1);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t) != 0)
        return 0;
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static void add_ticks(int pid, struct cpu *cpu)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        fail("server process %d is gone", pid);
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    char *after_name = strrchr(text, ')');
    unsigned long user = 0, system = 0;
    if (after_name == NULL ||
        sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        fail("cannot read %s", path);
    cpu->user_ticks += user;
    cpu->system_ticks += system;
}

static struct cpu server_cpu(void)
{
    struct cpu cpu = {0};
    for (int i = 0; i < options.server_pids; i++) {
        clockid_t clock;
        if (clock_getcpuclockid(options.server_pid[i], &clock) != 0)
            fail("server process %d is gone", options.server_pid[i]);
        cpu.each_ns[i] = clock_ns(clock);
        cpu.total_ns += cpu.each_ns[i];
        add_ticks(options.server_pid[i], &cpu);
    }
    return cpu;
}

/* ---- latency: a log-linear histogram, 64 buckets per power of two (1.6 %) ----------------------- */

#define SUB_BITS 6
#define SUB_BUCKETS (1u << SUB_BITS)
static uint64_t histogram[(64 - SUB_BITS + 1) * SUB_BUCKETS];
static uint64_t histogram_count, latency_max;

static inline unsigned bucket_of(uint64_t ns)
{
    if (ns < SUB_BUCKETS)
        return (unsigned)ns;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - SUB_BITS;
    return (shift + 1) * SUB_BUCKETS + (unsigned)((ns >> shift) - SUB_BUCKETS);
}

static double bucket_middle(unsigned bucket)
{
    if (bucket < SUB_BUCKETS)
        return bucket;
    unsigned shift = bucket / SUB_BUCKETS - 1;
    double low = (double)((uint64_t)(SUB_BUCKETS + bucket % SUB_BUCKETS) << shift);
    return low + (double)(1ULL << shift) / 2;
}

static inline void record(uint64_t ns, uint64_t count)
{
    histogram[bucket_of(ns)] += count;
    histogram_count += count;
    if (ns > latency_max)
        latency_max = ns;
}

static void reset_histogram(void)
{
    memset(histogram, 0, sizeof histogram);
    histogram_count = latency_max = 0;
}

static double percentile_us(double share)
{
    uint64_t target = (uint64_t)((double)histogram_count * share), seen = 0;
    for (unsigned i = 0; i < sizeof histogram / sizeof *histogram; i++) {
        seen += histogram[i];
        if (seen > target)
            return bucket_middle(i) / 1000;
    }
    return (double)latency_max / 1000;
}

/* ---- contents and framing --------------------------------------------------------------------- */

static size_t websocket_header(unsigned char *p, size_t size, const unsigned char *mask)
{
    size_t n = 0;
    unsigned char masked = mask != NULL ? 0x80 : 0;
    p[n++] = 0x82; /* final, binary */
    if (size < 126) {
        p[n++] = (unsigned char)(masked | size);
    } else {
        int length_bytes = size < 65536 ? 2 : 8;
        p[n++] = (unsigned char)(masked | (length_bytes == 2 ? 126 : 127));
        for (int i = length_bytes - 1; i >= 0; i--)
            p[n++] = (unsigned char)((uint64_t)size >> (8 * i));
    }
    if (mask != NULL) {
        memcpy(p + n, mask, 4);
        n += 4;
    }
    return n;
}

static void set_units(void)
{
    unsigned char header[16], mask[4] = {0};
    size_t trailer = options.mode == MODE_LINE ? 1 : 0;
    if (options.mode == MODE_LENGTH_PREFIX)
        out_header = expected_header = 4;
    if (options.mode == MODE_WEBSOCKET) {
        out_header = websocket_header(header, options.size, mask);
        expected_header = websocket_header(header, options.size, NULL);
    }
    out_unit = out_header + options.size + trailer;
    expected_unit = expected_header + options.size + trailer;
}

static inline uint64_t mixed(uint64_t x) /* splitmix64's finalizer */
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static uint64_t mask_of(const struct connection *c)
{
    uint32_t half = (uint32_t)mixed(c->id + 77);
    return (uint64_t)half << 32 | half;
}

/* Write message `sequence` of connection c into both payloads, every stride-th word. */
static void stamp(const struct connection *c, unsigned char *out, unsigned char *expected,
                  uint64_t sequence, size_t stride)
{
    uint64_t base = mixed(((uint64_t)c->id << 40) + sequence);
    uint64_t mask = options.mode == MODE_WEBSOCKET ? mask_of(c) : 0;
    bool text = options.mode == MODE_LINE; /* bytes from 0x40 to 0x7f: no newline inside */
    size_t words = options.size / 8, rest = options.size % 8;
    for (size_t k = 0; k <= words; k += stride) {
        uint64_t word = base + k * 0x9e3779b97f4a7c15ULL;
        size_t bytes = k < words ? 8 : rest;
        if (text)
            word = (word & 0x3f3f3f3f3f3f3f3fULL) | 0x4040404040404040ULL;
        if (bytes == 8) {
            memcpy(expected + k * 8, &word, 8);
            if (out != expected) {
                word ^= mask;
                memcpy(out + k * 8, &word, 8);
            }
        } else if (bytes > 0) {
            uint64_t masked = word ^ mask;
            memcpy(out + k * 8, &masked, bytes);
            memcpy(expected + k * 8, &word, bytes);
        }
    }
}

static void stamp_batch(struct connection *c, size_t stride)
{
    for (int i = 0; i < options.depth; i++)
        stamp(c, c->out + (size_t)i * out_unit + out_header,
              c->expected + (size_t)i * expected_unit + expected_header, c->sequence + (uint64_t)i, stride);
    c->sequence += (uint64_t)options.depth;
}

static void frame(const struct connection *c, unsigned char *out, unsigned char *expected)
{
    uint64_t mask = mask_of(c);
    uint32_t length = htonl((uint32_t)options.size);
    if (options.mode == MODE_LENGTH_PREFIX)
        memcpy(out, &length, 4);
    if (options.mode == MODE_LINE)
        out[options.size] = '\n';
    if (options.mode == MODE_WEBSOCKET) {
        websocket_header(out, options.size, (const unsigned char *)&mask);
        websocket_header(expected, options.size, NULL);
    }
}

/* Headers never change, so they are written once; stamp_batch renews the contents. */
static void make_buffers(struct connection *c)
{
    c->out = malloc(out_unit * (size_t)options.depth);
    c->expected = options.mode == MODE_WEBSOCKET ? malloc(expected_unit * (size_t)options.depth) : c->out;
    if (c->out == NULL || c->expected == NULL)
        fail("out of memory");
    for (int i = 0; i < options.depth; i++)
        frame(c, c->out + (size_t)i * out_unit, c->expected + (size_t)i * expected_unit);
    stamp_batch(c, 1);
    c->sequence = 0;
}

/* ---- connections ------------------------------------------------------------------------------ */

static void watch(struct connection *c, int operation, bool wants_write)
{
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0), .data.ptr = c};
    c->wants_write = wants_write;
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) != 0)
        fail("epoll_ctl: %s", strerror(errno));
}

/* Spread over 127.0.0.1, 127.0.0.2, ...: closed connections keep their port for a minute each. */
static void bind_source(int fd, uint64_t number)
{
    int one = 1;
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(number % (uint64_t)options.sources));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&source, sizeof source) != 0)
        fail("bind: %s", strerror(errno));
}

/* The connect blocks (over loopback it ends within the call); everything after is MSG_DONTWAIT. */
static void open_connection(struct connection *c, uint64_t number)
{
    int one = 1;
    struct timeval limit = {.tv_sec = CONNECT_LIMIT_S};
    c->sent_at = now_ns();
    c->fd = socket(server_address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    if (options.sources > 1 && server_address.ss_family == AF_INET)
        bind_source(c->fd, number);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(c->fd, (struct sockaddr *)&server_address, server_address_bytes) != 0)
        fail("connect: %s", strerror(errno));
    c->received_at = now_ns();
    c->out_done = c->expected_done = c->reply_bytes = 0;
    c->answered = false;
    c->upgraded = options.mode != MODE_WEBSOCKET;
}

static void close_connection(struct connection *c)
{
    close(c->fd);
    c->fd = -1;
}

static void continue_send(struct connection *c)
{
    size_t total = out_unit * (size_t)options.depth;
    ssize_t n = send(c->fd, c->out + c->out_done, total - c->out_done, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        fail("connection %u: send: %s", c->id, strerror(errno));
    if (n > 0)
        c->out_done += (size_t)n;
    bool pending = c->out_done < total;
    if (pending != c->wants_write)
        watch(c, EPOLL_CTL_MOD, pending);
}

static void send_batch(struct connection *c)
{
    stamp_batch(c, options.size > FULL_STAMP_BYTES ? STAMP_STRIDE : 1);
    c->out_done = c->expected_done = 0;
    c->sent_at = now_ns();
    continue_send(c);
}

static void send_handshake(struct connection *c)
{
    char text[512];
    int n = snprintf(text, sizeof text,
                     "GET / HTTP/1.1\r\nHost: localhost:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                     options.port, WEBSOCKET_KEY,
                     options.deflate ? "Sec-WebSocket-Extensions: permessage-deflate\r\n" : "");
    if (send(c->fd, text, (size_t)n, MSG_NOSIGNAL) != n)
        fail("connection %u: handshake: %s", c->id, strerror(errno));
}

/* Returns true once the whole answer has come. The server speaks only when spoken to, so that nothing
 * may follow the answer: a peek finds its end, a second call takes it. */
static bool take_handshake_answer(struct connection *c)
{
    char text[4096];
    ssize_t n = recv(c->fd, text, sizeof text - 1, MSG_DONTWAIT | MSG_PEEK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0)
        fail("connection %u: closed in the handshake", c->id);
    text[n] = 0;
    char *end = strstr(text, "\r\n\r\n");
    if (end == NULL && (size_t)n < sizeof text - 1)
        return false;
    if (end == NULL || strncmp(text, "HTTP/1.1 101 ", 13) != 0 || strstr(text, WEBSOCKET_ACCEPT) == NULL)
        fail("connection %u: handshake refused: %.60s", c->id, text);
    if (options.deflate && strcasestr(text, "permessage-deflate") == NULL)
        fail("connection %u: the server declined permessage-deflate", c->id);
    c->reply_bytes = (size_t)(end + 4 - text);
    if (recv(c->fd, text, c->reply_bytes, MSG_DONTWAIT) != (ssize_t)c->reply_bytes)
        fail("connection %u: handshake: %s", c->id, strerror(errno));
    c->upgraded = true;
    return true;
}

/* Take what arrived and compare it. Returns the number of messages completed, or -1 at end of file. */
static int take_echo(struct connection *c, uint64_t *received_at)
{
    ssize_t n = recv(c->fd, scratch, sizeof scratch, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n < 0 && errno != ECONNRESET)
        fail("connection %u: recv: %s", c->id, strerror(errno));
    if (n <= 0)
        return -1;
    *received_at = now_ns();
    size_t total = expected_unit * (size_t)options.depth;
    if ((size_t)n > total - c->expected_done)
        fail("connection %u: more bytes came back than were sent", c->id);
    if (memcmp(scratch, c->expected + c->expected_done, (size_t)n) != 0)
        fail("connection %u: wrong bytes near message %llu", c->id,
             (unsigned long long)(c->sequence - (uint64_t)options.depth + c->expected_done / expected_unit));
    size_t before = c->expected_done / expected_unit;
    c->expected_done += (size_t)n;
    return (int)(c->expected_done / expected_unit - before);
}

static bool batch_complete(const struct connection *c)
{
    return c->expected_done == expected_unit * (size_t)options.depth;
}

static struct connection *make_connections(void)
{
    struct connection *all = calloc((size_t)options.connections, sizeof *all);
    if (all == NULL)
        fail("out of memory");
    for (int i = 0; i < options.connections; i++) {
        all[i].id = (uint32_t)i;
        all[i].fd = -1;
    }
    return all;
}

static uint64_t looked_in_vain_ns;

/* Take events; fail when nothing at all has happened for STALL_LIMIT_S. It looks again and again and never sleeps:
 * waking a client is work for the kernel on the server's core, and a server that is slower has to do it more often. */
static int take_events(struct epoll_event *events, uint64_t *last_event)
{
    uint64_t began_at = now_ns();
    int n = epoll_wait(epoll_fd, events, MAX_EVENTS, 0);
    uint64_t now = now_ns();
    if (n < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    if (n <= 0)
        looked_in_vain_ns += now - began_at;
    if (n > 0)
        *last_event = now;
    else if (now - *last_event > STALL_LIMIT_S * NS_PER_S)
        fail("an echo is missing: no byte came for %d s", STALL_LIMIT_S);
    return n < 0 ? 0 : n;
}

/* ---- the measured interval -------------------------------------------------------------------- */

static struct {
    bool measuring, done;
    uint64_t begins_at, began_at, ended_at, count;
    struct cpu server_before, server_after;
    uint64_t client_before, client_after, client_idle_ns;
} interval;

static void plan_interval(void)
{
    interval.begins_at = now_ns() + (uint64_t)(options.warmup * 1e9);
}

static void begin_interval(void)
{
    reset_histogram();
    interval.measuring = true;
    interval.count = 0;
    looked_in_vain_ns = 0;
    interval.server_before = server_cpu();
    interval.client_before = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    interval.began_at = now_ns();
}

static void end_interval(void)
{
    interval.ended_at = now_ns();
    interval.server_after = server_cpu();
    interval.client_after = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    interval.client_idle_ns = looked_in_vain_ns;
    interval.done = true;
}

static void step_interval(void)
{
    uint64_t now = now_ns();
    if (!interval.measuring) {
        if (now >= interval.begins_at)
            begin_interval();
    } else if (options.messages > 0 ? interval.count >= options.messages
                                    : now - interval.began_at >= (uint64_t)(options.seconds * 1e9)) {
        end_interval();
    }
}

/* What comes after the interval is checked, but not counted. */
static void count_messages(uint64_t latency_ns, uint64_t count)
{
    if (interval.done)
        return;
    record(latency_ns, count);
    interval.count += count;
}

static void print_interval(void)
{
    const struct cpu *a = &interval.server_before, *b = &interval.server_after;
    double seconds = (double)(interval.ended_at - interval.began_at) / 1e9;
    printf("{\"work\": \"%s\", \"mode\": \"%s\", \"connections\": %d, \"size\": %zu, \"depth\": %d, ",
           WORK_NAMES[options.work], MODE_NAMES[options.mode], options.connections, options.size, options.depth);
    printf("\"seconds\": %.6f, \"count\": %llu, \"per_s\": %.1f, ", seconds,
           (unsigned long long)interval.count, (double)interval.count / seconds);
    printf("\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"max_us\": %.2f, ", percentile_us(0.5),
           percentile_us(0.99), percentile_us(0.999), (double)latency_max / 1000);
    printf("\"server_cpu_ns\": %llu, \"server_user_ticks\": %llu, \"server_system_ticks\": %llu, ",
           (unsigned long long)(b->total_ns - a->total_ns), (unsigned long long)(b->user_ticks - a->user_ticks),
           (unsigned long long)(b->system_ticks - a->system_ticks));
    printf("\"server_cpu_each_ns\": [");
    for (int i = 0; i < options.server_pids; i++)
        printf("%s%llu", i > 0 ? ", " : "", (unsigned long long)(b->each_ns[i] - a->each_ns[i]));
    printf("], \"client_cpu_ns\": %llu, \"client_idle_ns\": %llu}\n",
           (unsigned long long)(interval.client_after - interval.client_before),
           (unsigned long long)interval.client_idle_ns);
    fflush(stdout);
}

/* Serve events until the interval is over, and then until no connection waits for anything: an echo that
 * never comes must not go unnoticed because the other connections went on. */
static int waiting; /* connections with a batch out */

static void run_to_the_end(void (*on_event)(struct connection *c, uint32_t events))
{
    struct epoll_event events[MAX_EVENTS];
    uint64_t last_event = now_ns();
    while (!interval.done || waiting > 0) {
        if (!interval.done)
            step_interval();
        int n = take_events(events, &last_event);
        for (int i = 0; i < n; i++)
            on_event(events[i].data.ptr, events[i].events);
    }
    print_interval();
}

/* ---- work: echo ------------------------------------------------------------------------------- */

static void on_echo_event(struct connection *c, uint32_t events)
{
    uint64_t received_at = 0;
    if (!c->upgraded) {
        if (take_handshake_answer(c))
            send_batch(c);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        int count = take_echo(c, &received_at);
        if (count < 0)
            fail("connection %u: closed by the server", c->id);
        if (count > 0)
            count_messages(received_at - c->sent_at, (uint64_t)count);
        if (batch_complete(c)) {
            if (interval.done)
                waiting--;
            else
                send_batch(c);
            return;
        }
    }
    if (events & EPOLLOUT)
        continue_send(c);
}

static void work_echo(void)
{
    struct connection *all = make_connections();
    for (int i = 0; i < options.connections; i++) {
        make_buffers(&all[i]);
        open_connection(&all[i], (uint64_t)i);
        watch(&all[i], EPOLL_CTL_ADD, false);
        if (options.mode == MODE_WEBSOCKET)
            send_handshake(&all[i]);
        else
            send_batch(&all[i]);
    }
    waiting = options.connections;
    plan_interval();
    run_to_the_end(on_echo_event);
}

/* ---- work: accept and connect ----------------------------------------------------------------- */

static uint64_t opened;

static void begin_visit(struct connection *c)
{
    c->visit_began_at = now_ns();
    open_connection(c, opened++);
    watch(c, EPOLL_CTL_ADD, false);
    if (options.mode == MODE_WEBSOCKET)
        send_handshake(c);
    else
        continue_send(c);
}

static void on_visit_event(struct connection *c, uint32_t events)
{
    uint64_t received_at = 0;
    if (!c->upgraded) {
        if (take_handshake_answer(c))
            continue_send(c);
        return;
    }
    if (events & EPOLLOUT)
        continue_send(c);
    if (take_echo(c, &received_at) < 0)
        fail("connection %u: closed by the server", c->id);
    if (!batch_complete(c))
        return;
    count_messages(now_ns() - c->visit_began_at, 1);
    close_connection(c);
    if (interval.done)
        waiting--;
    else
        begin_visit(c);
}

/* Contents are stamped once per connection slot: what counts here is the connection. */
static void work_accept(void)
{
    struct connection *all = make_connections();
    for (int i = 0; i < options.connections; i++) {
        make_buffers(&all[i]);
        begin_visit(&all[i]);
    }
    waiting = options.connections;
    plan_interval();
    run_to_the_end(on_visit_event);
}

static void work_connect(void)
{
    struct connection *all = make_connections();
    plan_interval();
    for (uint64_t i = 0; !interval.done; i++) {
        struct connection *c = &all[i % (uint64_t)options.connections];
        if (c->fd >= 0)
            close_connection(c);
        uint64_t began_at = now_ns();
        open_connection(c, opened++);
        count_messages(now_ns() - began_at, 1);
        step_interval();
    }
    print_interval();
}

/* ---- work: idle ------------------------------------------------------------------------------- */

static struct {
    int opened, answered, closed;
    uint64_t min_since_send, max_since_receive;
} idle;

static void on_idle_close(struct connection *c)
{
    uint64_t now = now_ns();
    if (idle.closed++ == 0 || now - c->sent_at < idle.min_since_send)
        idle.min_since_send = now - c->sent_at;
    if (now - c->received_at > idle.max_since_receive)
        idle.max_since_receive = now - c->received_at;
    close_connection(c);
}

static void on_idle_event(struct connection *c, uint32_t events)
{
    if (!c->upgraded) {
        if (take_handshake_answer(c)) {
            c->received_at = now_ns();
            if (options.message)
                send_batch(c);
            else
                idle.answered++;
        }
        return;
    }
    if (options.message && !c->answered) {
        if (events & EPOLLOUT)
            continue_send(c);
        if (take_echo(c, &c->received_at) < 0)
            fail("connection %u: closed by the server", c->id);
        if (batch_complete(c)) {
            c->answered = true;
            idle.answered++;
        }
        return;
    }
    ssize_t n = recv(c->fd, scratch, sizeof scratch, MSG_DONTWAIT); /* pings are left unanswered */
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        on_idle_close(c);
}

static void open_idle(struct connection *c)
{
    open_connection(c, (uint64_t)idle.opened++);
    watch(c, EPOLL_CTL_ADD, false);
    if (options.mode == MODE_WEBSOCKET)
        send_handshake(c);
    else if (options.message)
        send_batch(c);
    else
        idle.answered++;
}

/* Returns false once standard input has ended. */
static bool handle_idle_events(int timeout_ms)
{
    struct epoll_event events[MAX_EVENTS];
    int n = epoll_wait(epoll_fd, events, MAX_EVENTS, timeout_ms);
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr != NULL)
            on_idle_event(events[i].data.ptr, events[i].events);
        else if (read(STDIN_FILENO, scratch, sizeof scratch) <= 0)
            return false;
    }
    return true;
}

static void print_idle(double seconds)
{
    printf("{\"work\": \"idle\", \"mode\": \"%s\", \"connections\": %d, \"seconds\": %.3f, \"closed_by_server\": %d, ",
           MODE_NAMES[options.mode], options.connections, seconds, idle.closed);
    printf("\"min_since_send_s\": %.6f, \"max_since_receive_s\": %.6f}\n", (double)idle.min_since_send / 1e9,
           (double)idle.max_since_receive / 1e9);
    fflush(stdout);
}

/* Returns when all of them are ready. */
static void open_gently(struct connection *all)
{
    uint64_t began_at = now_ns();
    for (int i = 0; i < options.connections; i++) {
        open_idle(&all[i]);
        handle_idle_events(now_ns() - began_at < (uint64_t)idle.opened * NS_PER_S / IDLE_CONNECTS_PER_S ? 1 : 0);
    }
    uint64_t limit = now_ns() + STALL_LIMIT_S * NS_PER_S;
    while (idle.answered < options.connections) {
        handle_idle_events(100);
        if (now_ns() > limit)
            fail("only %d of %d connections became ready", idle.answered, options.connections);
    }
}

static void work_idle(void)
{
    struct connection *all = make_connections();
    uint64_t began_at = now_ns();
    struct epoll_event standard_input = {.events = EPOLLIN, .data.ptr = NULL};
    if (options.message)
        for (int i = 0; i < options.connections; i++)
            make_buffers(&all[i]);
    open_gently(all);
    printf("{\"ready\": true, \"connections\": %d, \"seconds\": %.3f}\n", options.connections,
           (double)(now_ns() - began_at) / 1e9);
    fflush(stdout);
    /* A terminal or pipe is watched; a plain file or /dev/null cannot be, and means "no waiting". */
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &standard_input) == 0)
        while (idle.closed < options.connections && handle_idle_events(1000) &&
               now_ns() - began_at < (uint64_t)(options.seconds * 1e9)) {
        }
    print_idle((double)(now_ns() - began_at) / 1e9);
}

/* ---- work: broadcast -------------------------------------------------------------------------- */

/* All connections expect the same: the message of this turn, `depth` times. The first one asks for it. */
static void ask_for_broadcasts(struct connection *all)
{
    struct connection *speaker = &all[0];
    uint64_t mask = options.mode == MODE_WEBSOCKET ? mask_of(speaker) : 0;
    for (int i = 0; i < options.depth; i++) {
        unsigned char *out = speaker->out + (size_t)i * out_unit + out_header;
        unsigned char *expected = speaker->expected + (size_t)i * expected_unit + expected_header;
        stamp(speaker, out, expected, speaker->sequence, 1);
        expected[0] = (unsigned char)options.depth;
        out[0] = (unsigned char)options.depth ^ *(const unsigned char *)&mask;
    }
    speaker->sequence++;
    for (int i = 0; i < options.connections; i++)
        all[i].expected_done = 0;
    waiting = options.connections;
    speaker->sent_at = now_ns();
    if (send(speaker->fd, speaker->out, out_unit, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)out_unit)
        fail("the message to be broadcast could not be sent");
}

static void take_broadcasts(struct epoll_event *events, int n)
{
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        uint64_t received_at = 0;
        if (take_echo(c, &received_at) < 0)
            fail("connection %u: closed by the server", c->id);
        if (received_at > 0 && batch_complete(c))
            waiting--;
    }
}

/* The interval begins and ends between two turns: what was paid for is what has arrived. */
static void work_broadcast(void)
{
    struct connection *all = make_connections();
    struct epoll_event events[MAX_EVENTS];
    make_buffers(&all[0]);
    for (int i = 1; i < options.connections; i++)
        all[i].expected = all[0].expected;
    open_gently(all);
    plan_interval();
    uint64_t last_event = now_ns();
    while (!interval.done) {
        ask_for_broadcasts(all);
        while (waiting > 0)
            take_broadcasts(events, take_events(events, &last_event));
        count_messages(now_ns() - all[0].sent_at, (uint64_t)options.connections * (uint64_t)options.depth);
        step_interval();
    }
    print_interval();
}

/* ---- arguments -------------------------------------------------------------------------------- */

static int choice(const char *what, const char *text, const char *const *names, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    fail("unknown %s: %s", what, text);
}

static double number(const char *what, const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (*text == 0 || *end != 0 || !(value >= low && value <= high))
        fail("--%s must be from %g to %g, not %s", what, low, high, text);
    return value;
}

static const struct option LONG_OPTIONS[] = {
    {"work", required_argument, NULL, 'w'},        {"mode", required_argument, NULL, 'm'},
    {"host", required_argument, NULL, 'h'},        {"port", required_argument, NULL, 'p'},
    {"connections", required_argument, NULL, 'c'}, {"size", required_argument, NULL, 's'},
    {"depth", required_argument, NULL, 'd'},       {"seconds", required_argument, NULL, 't'},
    {"messages", required_argument, NULL, 'n'},    {"warmup", required_argument, NULL, 'u'},
    {"sources", required_argument, NULL, 'S'},     {"server-pid", required_argument, NULL, 'P'},
    {"message", no_argument, NULL, 'M'},           {"deflate", no_argument, NULL, 'D'},
    {NULL, 0, NULL, 0},
};

static void set_option(int letter, const char *value)
{
    switch (letter) {
    case 'w': options.work = (enum work)choice("work", value, WORK_NAMES, 5); break;
    case 'm': options.mode = (enum mode)choice("mode", value, MODE_NAMES, 4); break;
    case 'h': options.host = value; break;
    case 'p': options.port = (int)number("port", value, 1, 65535); break;
    case 'c': options.connections = (int)number("connections", value, 1, 60000); break;
    case 's': options.size = (size_t)number("size", value, 1, 64 << 20); break;
    case 'd': options.depth = (int)number("depth", value, 1, 4096); break;
    case 't': options.seconds = number("seconds", value, 0.01, 600); break;
    case 'n': options.messages = (uint64_t)number("messages", value, 1, 1e12); break;
    case 'u': options.warmup = number("warmup", value, 0, 60); break;
    case 'S': options.sources = (int)number("sources", value, 1, 250); break;
    case 'P':
        if (options.server_pids == MAX_SERVER_PIDS)
            fail("at most %d --server-pid", MAX_SERVER_PIDS);
        options.server_pid[options.server_pids++] = (int)number("server-pid", value, 1, 1 << 30);
        break;
    case 'M': options.message = true; break;
    case 'D': options.deflate = true; break;
    default: fail("unknown option; see the top of loadgen.c");
    }
}

static void set_server_address(void)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&server_address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&server_address;
    bool loopback = false;
    if (inet_pton(AF_INET, options.host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)options.port);
        server_address_bytes = sizeof *v4;
        loopback = ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    } else if (inet_pton(AF_INET6, options.host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)options.port);
        server_address_bytes = sizeof *v6;
        loopback = IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
    }
    if (!loopback)
        fail("only 127.0.0.0/8 and ::1 are allowed, not %s", options.host);
}

static void check_options(void)
{
    if (options.port == 0)
        fail("--port is missing");
    if ((double)options.size * options.depth * options.connections > 4e9)
        fail("size x depth x connections is over 4 GB");
    if (options.deflate && (options.work != WORK_IDLE || options.message))
        fail("--deflate goes with silent idle connections only: frames here are not compressed");
    if (options.work == WORK_BROADCAST && (options.depth > 255 || options.message))
        fail("--work broadcast goes with a depth that fits into a byte, and without --message");
    if (options.work == WORK_CONNECT && options.mode == MODE_WEBSOCKET)
        fail("--work connect goes without a handshake");
    if (options.sources == 0) /* about 28,000 ports per address and minute */
        options.sources = options.work == WORK_ECHO ? 1 : 128;
}

static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    int letter;
    opterr = 0;
    while ((letter = getopt_long(argc, argv, "", LONG_OPTIONS, NULL)) != -1)
        set_option(letter, optarg);
    if (optind < argc)
        fail("unexpected argument: %s", argv[optind]);
    check_options();
    set_server_address();
    set_units();
    raise_file_limit();
    signal(SIGALRM, on_alarm);
    alarm((unsigned)(options.warmup + options.seconds) + (options.messages > 0 ? 600 : 60));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        fail("epoll_create1: %s", strerror(errno));
    switch (options.work) {
    case WORK_ECHO: work_echo(); break;
    case WORK_ACCEPT: work_accept(); break;
    case WORK_CONNECT: work_connect(); break;
    case WORK_IDLE: work_idle(); break;
    case WORK_BROADCAST: work_broadcast(); break;
    }
    return 0;
}
