package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestSRVIsCachedByItsTTL(t *testing.T) {
	cases := []struct {
		name   string
		record string
		soa    string
		want   time.Duration
	}{
		{"TTL", "_matrix-fed._tcp.a.example. 600 IN SRV 0 0 1 h.", "", 10 * time.Minute},
		{"TTL too short", "_matrix-fed._tcp.a.example. 0 IN SRV 0 0 1 h.", "", minSRVLifetime},
		{"TTL too long", "_matrix-fed._tcp.a.example. 9999999 IN SRV 0 0 1 h.", "", maxSRVLifetime},
		{"absence, by the SOA's minimum", "", "example. 7200 IN SOA ns. mail. 1 2 3 4 900", 15 * time.Minute},
		{"absence, by the SOA's TTL", "", "example. 300 IN SOA ns. mail. 1 2 3 4 900", 5 * time.Minute},
		{"absence without SOA", "", "", 5 * time.Minute},
		{"absence for too long", "", "example. 99999 IN SOA ns. mail. 1 2 3 4 99999", time.Hour},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if c.record != "" {
				w.dns.add(c.record)
			}
			if c.soa != "" {
				rr, err := dns.NewRR(c.soa)
				if err != nil {
					t.Fatal(err)
				}
				w.dns.mu.Lock()
				w.dns.soa = rr
				w.dns.mu.Unlock()
			}
			look := func() {
				t.Helper()
				if _, err := w.lookUpSRV(context.Background(), "_matrix-fed._tcp.a.example."); err != nil {
					t.Fatal(err)
				}
			}
			look()
			w.clock.advance(c.want - time.Second)
			look()
			if n := w.dns.count("_matrix-fed._tcp.a.example. SRV"); n != 1 {
				t.Fatalf("asked %d times within %s", n, c.want)
			}
			w.clock.advance(time.Second)
			look()
			if n := w.dns.count("_matrix-fed._tcp.a.example. SRV"); n != 2 {
				t.Fatalf("asked %d times after %s, want twice", n, c.want)
			}
		})
	}
}

func TestTruncatedAnswersAreAskedForByTCP(t *testing.T) {
	w := newWorld(t)
	w.dns.mu.Lock()
	w.dns.truncate = true
	w.dns.mu.Unlock()
	for i := range 40 {
		w.dns.add(fmt.Sprintf("_matrix-fed._tcp.a.example. 60 IN SRV %d 0 %d h%d.example.", i, i+1, i))
	}
	e, err := w.lookUpSRV(context.Background(), "_matrix-fed._tcp.a.example.")
	if err != nil || len(e.records) != maxSRV {
		t.Fatalf("%d records, %v; want %d", len(e.records), err, maxSRV)
	}
	if u, c := w.dns.count("udp _matrix-fed._tcp.a.example. SRV"), w.dns.count("tcp _matrix-fed._tcp.a.example. SRV"); u != 1 || c != 1 {
		t.Fatalf("%d questions by UDP and %d by TCP", u, c)
	}
}

func TestAliases(t *testing.T) {
	w := newWorld(t)
	link := func(i int) string { return fmt.Sprintf("c%d.example.", i) }
	for i := range 3 {
		w.dns.add(fmt.Sprintf("%s 50 IN CNAME %s", link(i), link(i+1)))
	}
	w.dns.add(link(3) + " 600 IN SRV 0 0 1 h.")
	recs, ttl, err := w.Resolver.dns.srv(context.Background(), link(0))
	if err != nil || len(recs) != 1 || ttl != 50*time.Second {
		t.Fatalf("%v, %s, %v", recs, ttl, err)
	}
	// A ring of aliases ends.
	w.dns.add("r0.example. 50 IN CNAME r1.example.", "r1.example. 50 IN CNAME r0.example.")
	if recs, _, err := w.Resolver.dns.srv(context.Background(), "r0.example."); err == nil && len(recs) > 0 {
		t.Fatalf("a ring of aliases gave %v", recs)
	}
	if n := w.dns.count("r0.example. SRV") + w.dns.count("r1.example. SRV"); n > maxCNAMEs {
		t.Fatalf("%d questions for a ring of aliases", n)
	}
}

// An answer for another name must not be believed.
func TestRecordsOfOtherNamesAreIgnored(t *testing.T) {
	msg := new(dns.Msg)
	for _, s := range []string{"other.example. 60 IN SRV 0 0 1 evil.example.", "a.example. 60 IN SRV 0 0 2 good.example."} {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		msg.Answer = append(msg.Answer, rr)
	}
	recs, _, _ := readSRV(msg, "a.example.")
	if len(recs) != 1 || recs[0].target != "good.example" {
		t.Fatalf("records %v", recs)
	}
}

// deadDNS refuses at once. Its port is not one of those that the system gives
// to the sockets of other tests.
const deadDNS = "127.0.0.1:1"

// A question that comes back is no answer: it would say that there are no records.
func TestEchoIsNoAnswer(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { pc.Close(); <-ended })
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if _, err := pc.WriteTo(buf[:n], from); err != nil {
				t.Errorf("echo: %v", err)
			}
		}
	}()
	recs, _, err := newDNSClient([]string{pc.LocalAddr().String()}).srv(context.Background(), "a.example.")
	if !errors.Is(err, errUnreachable) {
		t.Fatalf("an echo gave %v, %v", recs, err)
	}
}

func TestDNSServersAreTriedInTurn(t *testing.T) {
	w := newWorld(t)
	w.dns.add("_matrix-fed._tcp.a.example. 60 IN SRV 0 0 1 h.")
	c := newDNSClient([]string{deadDNS, w.dns.addr})
	recs, _, err := c.srv(context.Background(), "_matrix-fed._tcp.a.example.")
	if err != nil || len(recs) != 1 {
		t.Fatalf("%v, %v", recs, err)
	}
	if _, _, err := newDNSClient([]string{deadDNS}).srv(context.Background(), "a.example."); !errors.Is(err, errUnreachable) {
		t.Fatalf("no server at all gave %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := c.srv(ctx, "a.example."); !errors.Is(err, context.Canceled) {
		t.Fatalf("a cancelled lookup gave %v", err)
	}
	if _, _, err := c.srv(context.Background(), strings.Repeat("a", 64)+".example."); err == nil {
		t.Fatal("a label of 64 bytes was looked up")
	}
}

func TestUnreachableDNSIsNotAskedTwice(t *testing.T) {
	w := newWorld(t)
	w.Resolver.dns = newDNSClient([]string{deadDNS})
	res, err := w.Resolve(context.Background(), "a.example")
	if err != nil || res.Step != "6" {
		t.Fatalf("Resolve = %+v, %v", res, err)
	}
	if got := res.Expires.Sub(w.clock.now()); got != failureLifetime {
		t.Fatalf("the result lives %s, want %s", got, failureLifetime)
	}
	if _, ok := w.srv.GetIfPresent("_matrix._tcp.a.example."); ok {
		t.Fatal("the second name was looked up although no DNS server answers")
	}
}

func TestOrderSRV(t *testing.T) {
	recs := []srvRecord{
		{target: "c", priority: 20, weight: 5}, {target: "a", priority: 10, weight: 0},
		{target: "b1", priority: 15, weight: 30}, {target: "b2", priority: 15, weight: 10}, {target: "b0", priority: 15, weight: 0},
	}
	rng := rand.New(rand.NewPCG(1, 2))
	first := map[string]int{}
	const rounds = 4000
	for range rounds {
		out := orderSRV(recs, rng.IntN)
		if len(out) != len(recs) || out[0].target != "a" || out[4].target != "c" {
			t.Fatalf("order %v", out)
		}
		first[out[1].target]++
	}
	// 30 : 10, and the record of weight 0 seldom.
	if r := float64(first["b1"]) / float64(first["b2"]); r < 2.5 || r > 3.6 {
		t.Fatalf("first of priority 15: %v", first)
	}
	if first["b0"] == 0 || first["b0"] > rounds/20 {
		t.Fatalf("first of priority 15: %v", first)
	}
	if recs[0].target != "c" {
		t.Fatal("the cached records were reordered")
	}
}
