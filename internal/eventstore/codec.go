package eventstore

import (
	_ "embed"
	"errors"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// The first byte of a stored JSON tells how to read the rest.
const (
	jsonPlain = 0x00
	jsonZstd1 = 0x01 // a zstd frame without its magic number, with dictionary 1
)

// dictionary1 was made by `go run ./internal/eventstore/gendict`. Stored events
// depend on it for ever: a better one gets a new number, and this one stays.
//
//go:embed dict/1.zdict
var dictionary1 []byte

// maxJSON bounds what a stored JSON may expand to: an event (64 KiB), or the
// stripped state of an invite.
const maxJSON = 4 << 20

const magicLen = 4

// magic is the magic number of a zstd frame.
const magic = "\x28\xb5\x2f\xfd"

// Codec compresses JSON that looks like Matrix events. It is safe for concurrent
// use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCodec makes a codec. One is enough for a process: it holds a compressor
// (about 1 MB) for each processor.
func NewCodec() (*Codec, error) {
	procs := runtime.GOMAXPROCS(0)
	// The fastest level takes half the time of the next one, for 1 % more bytes: most
	// of the work is to load the dictionary, most of the bytes are hashes.
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderDict(dictionary1), zstd.WithEncoderConcurrency(procs), zstd.WithEncoderCRC(false),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true), zstd.WithSingleSegment(true))
	if err != nil {
		return nil, fmt.Errorf("eventstore: compressor: %w", err)
	}
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderDicts(dictionary1), zstd.WithDecoderConcurrency(procs), zstd.WithDecoderMaxMemory(maxJSON), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("eventstore: decompressor: %w", err)
	}
	return &Codec{enc: enc, dec: dec}, nil
}

// Encode gives the stored form of a JSON. What does not shrink stays plain.
func (c *Codec) Encode(json []byte) []byte {
	// The frame's magic number is overwritten by our own first byte.
	buf := make([]byte, 0, len(json)/2+64)
	out := c.enc.EncodeAll(json, buf)
	if len(out) < magicLen || string(out[:magicLen]) != magic || len(out)-magicLen >= len(json) {
		return append([]byte{jsonPlain}, json...)
	}
	out = out[magicLen-1:]
	out[0] = jsonZstd1
	return out
}

var errStoredJSON = errors.New("eventstore: malformed stored JSON")

// Decode reads the stored form into a new slice.
func (c *Codec) Decode(stored []byte) ([]byte, error) {
	if len(stored) == 0 {
		return nil, errStoredJSON
	}
	switch stored[0] {
	case jsonPlain:
		return append([]byte(nil), stored[1:]...), nil
	case jsonZstd1:
		frame := make([]byte, 0, len(stored)+magicLen)
		frame = append(append(frame, magic...), stored[1:]...)
		out, err := c.dec.DecodeAll(frame, nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errStoredJSON, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%w: format %d", errStoredJSON, stored[0])
}
