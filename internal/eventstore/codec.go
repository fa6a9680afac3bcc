package eventstore

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"weft/internal/nid"
	"weft/matrix/id"
)

// The first byte of a stored JSON tells how to read the rest.
const (
	jsonPlain = 0x00
	// The packed form (pack.go): the length of its bytes, the bytes, the text, which in the
	// second is a zstd frame without its magic number, with dictionary 1.
	jsonPacked = 0x01
	jsonZstd1  = 0x02
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

// Encode gives the stored form of a JSON that stands for itself.
func (c *Codec) Encode(json []byte) []byte {
	p, ok := pack(json)
	return c.seal(json, p, ok)
}

// EncodeEvent gives the stored form of an event's JSON, which is read together with its row:
// number, room and auth events must be those of e.
func (c *Codec) EncodeEvent(e *Event, parents Parents) []byte {
	p, ok := packEvent(e, parents)
	return c.seal(e.JSON(), p, ok)
}

// seal puts the parts together. What does not shrink stays plain.
func (c *Codec) seal(json []byte, p packing, ok bool) []byte {
	if ok {
		buf := make([]byte, 0, len(p.raw)+len(p.text)/2+64)
		buf = binary.AppendUvarint(append(buf, jsonZstd1), uint64(len(p.raw)))
		buf = append(buf, p.raw...)
		// The frame's magic number is left out.
		frame := c.enc.EncodeAll(p.text, buf[len(buf):])
		if len(frame) >= magicLen && string(frame[:magicLen]) == magic && len(frame)-magicLen < len(p.text) {
			buf = append(buf, frame[magicLen:]...)
		} else {
			buf[0] = jsonPacked
			buf = append(buf, p.text...)
		}
		if len(buf) <= len(json) {
			return buf
		}
	}
	return append([]byte{jsonPlain}, json...)
}

var errStoredJSON = errors.New("eventstore: malformed stored JSON")

// Decode reads what Encode wrote into a new slice.
func (c *Codec) Decode(stored []byte) ([]byte, error) {
	p, err := c.open(stored, 0)
	if err != nil {
		return nil, err
	}
	return p.unpack("", nil, func(nid.Event) (id.Event, bool) { return "", false })
}

// open reads the stored form as far as it goes without what the row and the parents say.
func (c *Codec) open(stored []byte, own nid.Event) (*packed, error) {
	if len(stored) == 0 {
		return nil, errStoredJSON
	}
	if stored[0] == jsonPlain {
		return &packed{text: stored[1:], plain: true}, nil
	}
	n, used := binary.Uvarint(stored[1:])
	if used <= 0 || n > uint64(len(stored)-1-used) {
		return nil, errStoredJSON
	}
	rest := stored[1+used:]
	p := &packed{raw: rest[:n], text: rest[n:]}
	switch stored[0] {
	case jsonPacked:
	case jsonZstd1:
		frame := make([]byte, 0, len(p.text)+magicLen)
		frame = append(append(frame, magic...), p.text...)
		var err error
		if p.text, err = c.dec.DecodeAll(frame, nil); err != nil {
			return nil, fmt.Errorf("%w: %w", errStoredJSON, err)
		}
	default:
		return nil, fmt.Errorf("%w: format %d", errStoredJSON, stored[0])
	}
	return p, p.open(own)
}
