package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	resolvConf = "/etc/resolv.conf"

	// dnsTimeout bounds one question to one server over one protocol.
	dnsTimeout = 3 * time.Second
	// maxDNSServers and dnsRounds bound how often a question is repeated.
	maxDNSServers = 3
	dnsRounds     = 2
	// maxCNAMEs bounds a chain of aliases.
	maxCNAMEs = 8
	// maxSRV bounds the records that are used of one answer.
	maxSRV = 32

	minSRVLifetime      = 30 * time.Second
	maxSRVLifetime      = 24 * time.Hour
	maxNegativeLifetime = time.Hour
	// failureLifetime is how long a lookup that got no answer is not repeated.
	failureLifetime = time.Minute
)

// errUnreachable means that no DNS server answered.
var errUnreachable = errors.New("no DNS server answered")

// srvRecord is one SRV record, with the target's trailing dot removed.
type srvRecord struct {
	target           string
	port             uint16
	priority, weight uint16
}

// srvEntry is a cached answer; immutable.
type srvEntry struct {
	records     []srvRecord
	expires     time.Time
	unreachable bool
}

// lookUpSRV answers from the cache or asks. Failures become an empty entry that
// lives shortly: the specification's next step then applies. The error is the
// context's.
func (r *Resolver) lookUpSRV(ctx context.Context, name string) (*srvEntry, error) {
	fresh := func() (*srvEntry, bool) {
		e, ok := r.srv.GetIfPresent(name)
		return e, ok && r.opts.Now().Before(e.expires)
	}
	if e, ok := fresh(); ok {
		return e, nil
	}
	return share(ctx, &r.flights, "srv "+name, func(ctx context.Context) *srvEntry {
		if e, ok := fresh(); ok {
			return e // another lookup ended just now
		}
		recs, ttl, err := r.dns.srv(ctx, name)
		e := &srvEntry{records: recs}
		switch {
		case err != nil:
			if r.opts.Log != nil {
				r.opts.Log.WithError(err).WithField("name", name).Debug("SRV lookup failed")
			}
			e.unreachable = errors.Is(err, errUnreachable)
			ttl = failureLifetime
		case len(recs) == 0:
			ttl = min(max(ttl, minSRVLifetime), maxNegativeLifetime)
		default:
			ttl = min(max(ttl, minSRVLifetime), maxSRVLifetime)
		}
		e.expires = r.opts.Now().Add(ttl)
		r.srv.Set(name, e)
		return e
	})
}

// dnsClient asks recursive DNS servers.
type dnsClient struct {
	servers  []string
	udp, tcp *dns.Client
}

func newDNSClient(servers []string) *dnsClient {
	return &dnsClient{
		servers: servers,
		udp:     &dns.Client{Net: "udp", Timeout: dnsTimeout, UDPSize: 1232},
		tcp:     &dns.Client{Net: "tcp", Timeout: dnsTimeout},
	}
}

// list gives the servers to ask. resolv.conf is read each time: it is small,
// answers are cached, and it changes while a server runs.
func (c *dnsClient) list() []string {
	if len(c.servers) > 0 {
		return c.servers[:min(len(c.servers), maxDNSServers)]
	}
	conf, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil || len(conf.Servers) == 0 {
		// The resolver(5) default.
		return []string{"127.0.0.1:53"}
	}
	var out []string
	for _, s := range conf.Servers[:min(len(conf.Servers), maxDNSServers)] {
		out = append(out, net.JoinHostPort(s, conf.Port))
	}
	return out
}

// srv looks up SRV records, following aliases. No records and no error means
// that there are none, and ttl says for how long.
func (c *dnsClient) srv(ctx context.Context, name string) (recs []srvRecord, ttl time.Duration, err error) {
	name = dns.CanonicalName(name)
	if _, ok := dns.IsDomainName(name); !ok {
		return nil, 0, fmt.Errorf("%q is not a domain name", name)
	}
	ttl = maxSRVLifetime
	for range maxCNAMEs {
		msg, err := c.ask(ctx, name, dns.TypeSRV)
		if err != nil {
			return nil, 0, err
		}
		found, last, answerTTL := readSRV(msg, name)
		ttl = min(ttl, answerTTL)
		if len(found) > 0 || last == name || msg.Rcode == dns.RcodeNameError {
			if len(found) == 0 {
				ttl = min(ttl, negativeTTL(msg))
			}
			return found, ttl, nil
		}
		name = last
	}
	return nil, 0, fmt.Errorf("more than %d aliases in a row, last %q", maxCNAMEs, name)
}

// readSRV follows the aliases inside one answer and returns the SRV records
// at their end, the name at the end, and the smallest TTL on the way.
func readSRV(msg *dns.Msg, name string) (recs []srvRecord, last string, ttl time.Duration) {
	ttl = maxSRVLifetime
	last = name
	for range maxCNAMEs {
		next := ""
		for _, rr := range msg.Answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || dns.CanonicalName(h.Name) != last {
				continue
			}
			switch rr := rr.(type) {
			case *dns.SRV:
				ttl = min(ttl, time.Duration(h.Ttl)*time.Second)
				// A target of "." says that there is no such service, and port 0 is none.
				if rr.Target != "." && rr.Port != 0 && len(recs) < maxSRV {
					recs = append(recs, srvRecord{
						target: strings.TrimSuffix(dns.CanonicalName(rr.Target), "."),
						port:   rr.Port, priority: rr.Priority, weight: rr.Weight,
					})
				}
			case *dns.CNAME:
				next = dns.CanonicalName(rr.Target)
				ttl = min(ttl, time.Duration(h.Ttl)*time.Second)
			}
		}
		if len(recs) > 0 || next == "" {
			return recs, last, ttl
		}
		last = next
	}
	return nil, last, ttl
}

// negativeTTL says how long an absence may be remembered.
//
// spec: RFC 2308 §5
func negativeTTL(msg *dns.Msg) time.Duration {
	for _, rr := range msg.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
		}
	}
	return 5 * time.Minute
}

// ask puts one question to the servers until one answers it.
func (c *dnsClient) ask(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	q.SetEdns0(1232, false)
	var answered, last error
	for range dnsRounds {
		for _, server := range c.list() {
			msg, err := c.exchange(ctx, q, server)
			if ctx.Err() != nil {
				return nil, fmt.Errorf("%w: %w", errUnreachable, ctx.Err())
			}
			if err != nil {
				last = err
				continue
			}
			switch msg.Rcode {
			case dns.RcodeSuccess, dns.RcodeNameError:
				return msg, nil
			}
			answered = fmt.Errorf("DNS server %s answered %s for %s", server, dns.RcodeToString[msg.Rcode], name)
		}
		if answered != nil {
			return nil, answered
		}
	}
	return nil, fmt.Errorf("%w: %w", errUnreachable, last)
}

// exchange asks one server by UDP, and by TCP if the answer did not fit.
func (c *dnsClient) exchange(ctx context.Context, q *dns.Msg, server string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*dnsTimeout)
	defer cancel()
	msg, _, err := c.udp.ExchangeContext(ctx, q, server)
	if err != nil && !errors.Is(err, dns.ErrBuf) {
		return nil, err
	}
	if err != nil || msg.Truncated {
		if msg, _, err = c.tcp.ExchangeContext(ctx, q, server); err != nil {
			return nil, err
		}
	}
	// Where nobody listens on a high port, the system may give that very port to
	// the question's own socket, which then reads what it sent.
	if !msg.Response {
		return nil, fmt.Errorf("DNS server %s sent the question back", server)
	}
	return msg, nil
}

// orderSRV puts records in the order in which they are to be tried: by
// priority, and within one priority at random in proportion to the weights.
//
// spec: RFC 2782, "Weight"
func orderSRV(in []srvRecord, intn func(int) int) []srvRecord {
	rest := slices.Clone(in)
	// Within a priority the records of weight 0 come first, as the RFC orders them.
	slices.SortStableFunc(rest, func(a, b srvRecord) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.weight, b.weight))
	})
	out := make([]srvRecord, 0, len(rest))
	for len(rest) > 0 {
		n, sum := 0, 0
		for n < len(rest) && rest[n].priority == rest[0].priority {
			sum += int(rest[n].weight)
			n++
		}
		pick, running, draw := 0, 0, intn(sum+1)
		for i := range n {
			running += int(rest[i].weight)
			if running >= draw {
				pick = i
				break
			}
		}
		out = append(out, rest[pick])
		rest = slices.Delete(rest, pick, pick+1)
	}
	return out
}
