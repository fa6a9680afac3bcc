package bus

import (
	"slices"
	"sync"
	"sync/atomic"
)

// QueueLen is how many messages wait for a subscriber of a Local bus before the oldest are dropped.
const QueueLen = 1024

// Local is a Bus inside one process.
type Local struct {
	mu        sync.RWMutex
	topics    map[string][]*subscription
	published atomic.Uint64
	dropped   atomic.Uint64
}

var _ Bus = (*Local)(nil)

// NewLocal returns a bus without subscribers.
func NewLocal() *Local {
	return &Local{topics: make(map[string][]*subscription)}
}

// Stats counts messages since the start.
type Stats struct {
	Published uint64 // calls of Publish
	Dropped   uint64 // messages that a subscriber lost because its queue was full
	Queued    int    // messages that wait now, for all subscribers
}

// Stats returns the counters.
func (l *Local) Stats() Stats {
	s := Stats{Published: l.published.Load(), Dropped: l.dropped.Load()}
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, subs := range l.topics {
		for _, sub := range subs {
			s.Queued += sub.len()
		}
	}
	return s
}

// Publish implements Bus.
func (l *Local) Publish(topic string, data []byte) {
	l.published.Add(1)
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, sub := range l.topics[topic] {
		if sub.push(data) {
			l.dropped.Add(1)
		}
	}
}

// Subscribe implements Bus.
func (l *Local) Subscribe(topic string, fn func(data []byte)) (cancel func()) {
	sub := &subscription{fn: fn}
	sub.wake.L = &sub.mu
	l.mu.Lock()
	l.topics[topic] = append(slices.Clip(l.topics[topic]), sub)
	l.mu.Unlock()
	go sub.deliver()
	return func() {
		sub.cancel()
		l.mu.Lock()
		defer l.mu.Unlock()
		subs := slices.DeleteFunc(slices.Clone(l.topics[topic]), func(s *subscription) bool { return s == sub })
		if len(subs) == 0 {
			delete(l.topics, topic)
			return
		}
		l.topics[topic] = subs
	}
}

// subscription is one subscriber with its queue, a ring that grows up to QueueLen.
type subscription struct {
	fn func(data []byte)

	mu       sync.Mutex
	wake     sync.Cond // signalled when the queue gets its first message, and by cancel
	ring     [][]byte
	head, n  int
	canceled bool
}

// push puts a message into the queue and tells whether the oldest had to go.
func (s *subscription) push(data []byte) (dropped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.canceled {
		return false
	}
	if s.n == len(s.ring) {
		if s.n == QueueLen {
			s.ring[s.head] = nil
			s.head = (s.head + 1) % QueueLen
			s.n--
			dropped = true
		} else {
			s.grow()
		}
	}
	s.ring[(s.head+s.n)%len(s.ring)] = data
	s.n++
	if s.n == 1 {
		s.wake.Signal()
	}
	return dropped
}

func (s *subscription) grow() {
	ring := make([][]byte, min(max(2*len(s.ring), 16), QueueLen))
	k := copy(ring, s.ring[s.head:])
	copy(ring[k:], s.ring[:s.head])
	s.ring, s.head = ring, 0
}

func (s *subscription) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// deliver calls fn until the subscription is cancelled.
func (s *subscription) deliver() {
	for {
		data, ok := s.pop()
		if !ok {
			return
		}
		s.fn(data)
	}
}

func (s *subscription) pop() (data []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.n == 0 && !s.canceled {
		s.wake.Wait()
	}
	if s.canceled {
		return nil, false
	}
	data = s.ring[s.head]
	s.ring[s.head] = nil
	s.head = (s.head + 1) % len(s.ring)
	s.n--
	return data, true
}

func (s *subscription) cancel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.canceled = true
	s.ring, s.n = nil, 0
	s.wake.Broadcast()
}
