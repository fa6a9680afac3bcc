// Package freeport finds addresses for programs that tests start, once or again and again.
//
// The system's own choice (port 0) is not enough for them: it is free only until the next look, and connections get
// their local ports from the same range. Whoever is started again on such a port, seconds later, may find a connection there
// that has nothing to do with it, and "address already in use".
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports that no system of today gives to connections: those of Linux begin at 32768, those of others at 49152.
const first, last = 10_000, 32_767

// tries is how many ports in a row may be found taken.
const tries = 1000

// taken are UDP sockets of the same numbers: other processes that ask here find them.
var (
	mu    sync.Mutex
	taken []net.PacketConn
)

// Address is a TCP address of loopback where nobody listens, and which Address gives to nobody else, in this process or another
// one, until this process ends.
func Address() (string, error) {
	for range tries {
		address := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first+1))
		place, err := net.ListenPacket("udp", address)
		if err != nil {
			continue // somebody else's
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			if err := place.Close(); err != nil {
				return "", err
			}
			continue
		}
		if err := l.Close(); err != nil {
			return "", errors.Join(err, place.Close())
		}
		mu.Lock()
		defer mu.Unlock()
		taken = append(taken, place)
		return address, nil
	}
	return "", fmt.Errorf("no free port among %d between %d and %d", tries, first, last)
}
