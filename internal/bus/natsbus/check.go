package natsbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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

// Check asks a node whether it is there, and which of the requests that were sent to it before a time it still has: missing are
// the numbers of those that it does not have. Such a request or its answer is lost, or, on rare ways, not here yet: who finds it missing
// twice ends it with End. Requests that wait for being sent are not asked about. Errors are those of Request.
func (b *Bus) Check(ctx context.Context, node string, before time.Time) (missing []uint64, err error) {
	if node == b.cfg.Node {
		return nil, nil // nothing is lost on no way
	}
	asked := b.calls.of(func(c *call) bool { return c.node == node && c.began.Before(before) && c.state.Load() == callSent })
	slices.Sort(asked)
	question := binary.AppendUvarint(nil, uint64(len(b.calls.prefix)))
	question = appendNumbers(append(question, b.calls.prefix...), asked, b.MaxData())
	answer, err := b.Request(ctx, node, checkName, question)
	if err != nil || len(answer) == 0 {
		return nil, err
	}
	if missing, err = readNumbers(answer); err != nil {
		return nil, fmt.Errorf("natsbus: check: %w", err)
	}
	return slices.DeleteFunc(missing, func(number uint64) bool {
		_, was := slices.BinarySearch(asked, number)
		return !was
	}), nil
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
	from := string(r.bytes())
	asked, err := readNumbers(r.rest)
	if err != nil || r.failed {
		return nil, errFrame
	}
	return appendNumbers(nil, b.handlers.lacks(from, asked), b.MaxData()), nil
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
