package natsbus

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	// checkName is the subject of Check, which a node answers without a handler, also while it closes. A node of another version
	// answers with nothing.
	checkName = "rpc.ping"
	// maxChecked bounds the requests that are asked about at once, the oldest first.
	maxChecked = 8192
)

// sign is the last answer of a node to a Check: what its clock showed, and when the answer came.
type sign struct {
	clock time.Duration
	at    time.Time
}

// signKept is how long a sign is of use: longer than anybody waits.
const signKept = 2 * MaxTimeout

// Check asks a node whether it is there, and which of the requests that were sent to it before a time it still has: missing are
// the numbers of those that it does not have. Such a request or its answer is lost, or, on rare ways, not here yet: who finds it missing
// twice, some time apart, ends it with End. Requests that wait for being sent are not asked about. Errors are those of Request.
//
// It also tells the node that those requests are wanted. The node answers with its clock, and the next Check has that time: however long
// it is on its way, it was sent after it (Wanted).
func (b *Bus) Check(ctx context.Context, node string, before time.Time) (missing []uint64, err error) {
	if node == b.cfg.Node {
		return nil, nil // nothing is lost on no way
	}
	asked := b.calls.of(func(c *call) bool { return c.node == node && c.began.Before(before) && c.state.Load() == callSent })
	slices.Sort(asked)
	question := append(binary.AppendUvarint(nil, uint64(len(b.calls.prefix))), b.calls.prefix...)
	question = binary.AppendUvarint(question, uint64(b.sign(node).clock))
	question = appendNumbers(question, asked, b.MaxData())
	answer, err := b.Request(ctx, node, checkName, question)
	if err != nil || len(answer) == 0 {
		return nil, err
	}
	r := reader{rest: answer}
	clock := time.Duration(r.uvarint())
	if missing, err = readNumbers(r.rest); err != nil || r.failed {
		return nil, fmt.Errorf("natsbus: check: %w", cmp.Or(err, errFrame))
	}
	b.noteSign(node, clock)
	return slices.DeleteFunc(missing, func(number uint64) bool {
		_, was := slices.BinarySearch(asked, number)
		return !was
	}), nil
}

func (b *Bus) sign(node string) sign {
	b.signsMu.Lock()
	defer b.signsMu.Unlock()
	return b.signs[node]
}

func (b *Bus) noteSign(node string, clock time.Duration) {
	b.signsMu.Lock()
	defer b.signsMu.Unlock()
	now := time.Now()
	if _, known := b.signs[node]; !known {
		maps.DeleteFunc(b.signs, func(_ string, s sign) bool { return now.Sub(s.at) > signKept })
	}
	b.signs[node] = sign{clock, now}
}

// Sign tells when the last answer of a node to a Check came; zero where there was none.
func (b *Bus) Sign(node string) time.Time { return b.sign(node).at }

// Wanted tells in the context of a handler for how long at most its caller may have ceased to wait for it, as the last Check says that
// named the call. It is false where there was none.
func (b *Bus) Wanted(ctx context.Context) (ago time.Duration, ok bool) {
	j, here := ctx.Value(jobKey{}).(*job)
	if !here {
		return 0, false
	}
	clock := j.wanted.Load()
	return b.handlers.clock() - time.Duration(clock), clock != 0
}

// End ends requests with an error. They may be carried out all the same.
func (b *Bus) End(numbers []uint64, err error) {
	for _, number := range numbers {
		b.calls.end(number, answer{err: err})
	}
}

// checked answers a Check of another node. What it had before and has no more was answered: that answer goes before this one.
func (b *Bus) checked(question []byte) (answer []byte, err error) {
	if len(question) == 0 {
		return nil, nil // by another version
	}
	r := reader{rest: question}
	from, clock := string(r.bytes()), time.Duration(r.uvarint())
	asked, err := readNumbers(r.rest)
	if err != nil || r.failed {
		return nil, errFrame
	}
	answer = binary.AppendUvarint(nil, uint64(b.handlers.clock()))
	return appendNumbers(answer, b.handlers.wants(from, asked, clock), b.MaxData()), nil
}

// appendNumbers appends ascending numbers, the first maxChecked of them at most and no more than fit into so many bytes, each as what it
// is more than the one before.
func appendNumbers(to []byte, numbers []uint64, limit int) []byte {
	last := uint64(0)
	for _, n := range numbers[:min(len(numbers), maxChecked)] {
		if len(to)+binary.MaxVarintLen64 > limit {
			break
		}
		to = binary.AppendUvarint(to, n-last)
		last = n
	}
	return to
}

var errNumbers = errors.New("numbers of calls that are none")

func readNumbers(data []byte) (numbers []uint64, err error) {
	r := reader{rest: data}
	last := uint64(0)
	for len(r.rest) > 0 {
		last += r.uvarint()
		if r.failed || len(numbers) == maxChecked {
			return nil, errNumbers
		}
		numbers = append(numbers, last)
	}
	return numbers, nil
}
