package guard

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

func TestCheck(t *testing.T) {
	pfx := func(s ...string) (out []netip.Prefix) {
		for _, x := range s {
			out = append(out, netip.MustParsePrefix(x))
		}
		return out
	}
	cases := []struct {
		name  string
		opts  Options
		addr  string
		allow bool
	}{
		{"public v4", Options{}, "93.184.216.34", true},
		{"public v6", Options{}, "2606:2800:220:1::1", true},
		{"loopback", Options{}, "127.0.0.1", false},
		{"loopback v6", Options{}, "::1", false},
		{"unspecified v6", Options{}, "::", false},
		{"loopback mapped", Options{}, "::ffff:127.0.0.1", false},
		{"nat64 of loopback", Options{}, "64:ff9b::7f00:1", false},
		{"nat64 of public", Options{}, "64:ff9b::5db8:d822", true},
		{"6to4", Options{}, "2002:7f00:1::", false},
		{"teredo", Options{}, "2001:0:1::1", false},
		{"private 10", Options{}, "10.1.2.3", false},
		{"private 172", Options{}, "172.31.255.255", false},
		{"just above private 172", Options{}, "172.32.0.0", true},
		{"metadata service", Options{}, "169.254.169.254", false},
		{"shared address space", Options{}, "100.64.0.1", false},
		{"unique local", Options{}, "fd00::1", false},
		{"link local with zone", Options{}, "fe80::1%eth0", false},
		{"multicast", Options{}, "224.0.0.1", false},
		{"private allowed", Options{AllowPrivate: true}, "10.1.2.3", true},
		{"listed range allowed", Options{Allow: pfx("10.1.0.0/16")}, "10.1.2.3", true},
		{"outside the listed range", Options{Allow: pfx("10.1.0.0/16")}, "10.2.2.3", false},
		{"deny beats allow", Options{Allow: pfx("10.0.0.0/8"), Deny: pfx("10.1.2.3/32")}, "10.1.2.3", false},
		{"deny beats private", Options{AllowPrivate: true, Deny: pfx("169.254.0.0/16")}, "169.254.169.254", false},
		{"deny of a public range", Options{Deny: pfx("93.0.0.0/8")}, "93.184.216.34", false},
		{"deny sees through mapping", Options{AllowPrivate: true, Deny: pfx("127.0.0.0/8")}, "::ffff:127.0.0.1", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := New(c.opts).Check(netip.MustParseAddr(c.addr))
			if (err == nil) != c.allow {
				t.Fatalf("Check(%s) = %v, want allowed=%v", c.addr, err, c.allow)
			}
			if err != nil && !errors.Is(err, ErrDenied) {
				t.Fatalf("the refusal does not wrap ErrDenied: %v", err)
			}
		})
	}
	if err := New(Options{AllowPrivate: true}).Check(netip.Addr{}); !errors.Is(err, ErrDenied) {
		t.Fatalf("an invalid address gave %v", err)
	}
}

func TestControlStopsTheDialer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := net.Dialer{Control: New(Options{}).Control}
	if c, err := d.Dial("tcp", ln.Addr().String()); err == nil {
		c.Close()
		t.Fatal("the dialer connected to the loopback interface")
	} else if !errors.Is(err, ErrDenied) {
		t.Fatalf("unexpected error: %v", err)
	}
	d.Control = New(Options{AllowPrivate: true}).Control
	c, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatalf("allowed address refused: %v", err)
	}
	c.Close()
}
