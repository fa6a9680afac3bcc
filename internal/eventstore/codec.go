package eventstore

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"weft/internal/dictzstd"
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
	dict *dictzstd.Dictionary
	long *zstd.Encoder // of what dict does not take
	dec  *zstd.Decoder
}

// NewCodec makes a codec. One is enough for a process.
func NewCodec() (*Codec, error) {
	dict, err := dictzstd.NewDictionary(dictionary1)
	if err != nil {
		return nil, fmt.Errorf("eventstore: %w", err)
	}
	procs := runtime.GOMAXPROCS(0)
	long, err := zstd.NewWriter(nil,
		zstd.WithEncoderDict(dictionary1), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true), zstd.WithSingleSegment(true))
	if err != nil {
		return nil, fmt.Errorf("eventstore: compressor: %w", err)
	}
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderDicts(dictionary1), zstd.WithDecoderConcurrency(procs), zstd.WithDecoderMaxMemory(maxJSON), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("eventstore: decompressor: %w", err)
	}
	return &Codec{dict: dict, long: long, dec: dec}, nil
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
		var shorter bool
		if buf, shorter = c.compress(buf, p.text); !shorter {
			buf[0] = jsonPacked
			buf = append(buf, p.text...)
		}
		if len(buf) <= len(json) {
			return buf
		}
	}
	return append([]byte{jsonPlain}, json...)
}

// compress appends a text's frame, whose magic number is left out, if that is shorter.
func (c *Codec) compress(buf, text []byte) ([]byte, bool) {
	if len(text) <= dictzstd.MaxText {
		return c.dict.Append(buf, text)
	}
	frame := c.long.EncodeAll(text, nil)
	if len(frame)-magicLen >= len(text) || string(frame[:magicLen]) != magic {
		return buf, false
	}
	return append(buf, frame[magicLen:]...), true
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
