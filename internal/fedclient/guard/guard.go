package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// ErrDenied is what every refusal wraps.
var ErrDenied = errors.New("the address is not allowed by this server's configuration")

// Options say which addresses may be dialled. The zero value allows the public
// internet only.
type Options struct {
	// AllowPrivate allows special-purpose addresses too: loopback, private,
	// link-local and the like.
	AllowPrivate bool
	// Allow lists ranges that are allowed although they are special-purpose.
	Allow []netip.Prefix
	// Deny lists ranges that are refused whatever the other options say.
	Deny []netip.Prefix
}

// Policy is an immutable set of rules made from Options.
type Policy struct {
	opts    Options
	special []netip.Prefix
}

// New makes a policy.
func New(o Options) *Policy {
	p := &Policy{opts: Options{AllowPrivate: o.AllowPrivate}}
	p.opts.Allow = append(p.opts.Allow, o.Allow...)
	p.opts.Deny = append(p.opts.Deny, o.Deny...)
	for _, s := range specialRanges {
		p.special = append(p.special, netip.MustParsePrefix(s))
	}
	return p
}

// specialRanges are the IANA special-purpose registries' ranges that are not
// globally reachable, the multicast ranges, and the transition mechanisms that
// hide another address inside.
//
// spec: RFC 6890 and the IANA IPv4 and IPv6 special-purpose address registries
var specialRanges = [...]string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
	"172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
	"192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"224.0.0.0/4", "240.0.0.0/4",
	"::/127", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
	"2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
}

// Check says whether addr may be dialled. The error wraps ErrDenied.
func (p *Policy) Check(addr netip.Addr) error {
	if !addr.IsValid() {
		return fmt.Errorf("no valid IP address: %w", ErrDenied)
	}
	addr = addr.Unmap().WithZone("")
	if inner, ok := nat64(addr); ok {
		return p.Check(inner)
	}
	switch {
	case contains(p.opts.Deny, addr):
		return fmt.Errorf("%s is in a denied range: %w", addr, ErrDenied)
	case p.opts.AllowPrivate, contains(p.opts.Allow, addr):
		return nil
	case contains(p.special, addr):
		return fmt.Errorf("%s is a private or special-purpose address: %w", addr, ErrDenied)
	}
	return nil
}

// Control is a net.Dialer's Control function: it sees the resolved address
// just before the socket connects.
func (p *Policy) Control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("cannot read the address %q that is being dialled: %w", address, ErrDenied)
	}
	return p.Check(ap.Addr())
}

// nat64 gives the IPv4 address inside one of the well-known NAT64 prefix.
//
// spec: RFC 6052 §2.1
func nat64(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	prefix := [12]byte{0x00, 0x64, 0xff, 0x9b}
	if [12]byte(b[:12]) != prefix {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(b[12:])), true
}

func contains(ranges []netip.Prefix, addr netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(addr) {
			return true
		}
	}
	return false
}
