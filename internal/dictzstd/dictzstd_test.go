package dictzstd_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"weft/internal/dictzstd"
)

const magic = "\x28\xb5\x2f\xfd"

// both gives a compressor, and the library's decompressor with the same dictionary.
func both(t testing.TB) (*dictzstd.Dictionary, *zstd.Decoder, []byte) {
	t.Helper()
	data, err := os.ReadFile("../eventstore/dict/1.zdict")
	if err != nil {
		t.Fatal(err)
	}
	d, err := dictzstd.NewDictionary(data)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderDicts(data))
	if err != nil {
		t.Fatal(err)
	}
	return d, dec, data
}

// returns compresses a text, and fails unless the library gives it back. It tells whether the text was taken.
func returns(t testing.TB, d *dictzstd.Dictionary, dec *zstd.Decoder, text []byte) bool {
	t.Helper()
	out, ok := d.Append([]byte(magic), text)
	if !ok {
		if string(out) != magic {
			t.Fatalf("%.100q: refused, and %q appended", text, out)
		}
		return false
	}
	if len(out)-len(magic) >= len(text) {
		t.Fatalf("%.100q: %d bytes became %d", text, len(text), len(out))
	}
	got, err := dec.DecodeAll(out, nil)
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("%q became %x, and that %q (%v)", text, out, got, err)
	}
	return true
}

func TestTextsReturn(t *testing.T) {
	d, dec, dict := both(t)
	r := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for n := range 20_000 {
		var text []byte
		for range r.IntN(1 + n%40) {
			switch r.IntN(4) {
			case 0: // a piece of the dictionary
				at := 150 + r.IntN(len(dict)-150)
				text = append(text, dict[at:min(len(dict), at+r.IntN(200))]...)
			case 1: // a piece of the text
				if len(text) > 0 {
					at := r.IntN(len(text))
					text = append(text, text[at:min(len(text), at+r.IntN(300))]...)
				}
			case 2: // letters
				for range r.IntN(100) {
					text = append(text, byte('a'+r.IntN(26)))
				}
			default: // anything, and the same byte many times
				text = append(text, bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(3)*r.IntN(100))...)
			}
		}
		if returns(t, d, dec, text) {
			taken++
		}
	}
	if taken < 8_000 {
		t.Errorf("%d texts were taken", taken)
	}
}

func TestBounds(t *testing.T) {
	d, dec, _ := both(t)
	for _, n := range []int{8, 9, 15, 16, 17, 31, 32, 63, 64, 127, 128, 129, 255, 256, 257, 1022, 1023, 1024, 1025, 4096, dictzstd.MaxText - 1, dictzstd.MaxText} {
		for _, text := range []string{strings.Repeat("a", n), strings.Repeat(`{"body":"hello, world"}`, n)[:n], strings.Repeat("lorem ipsum dolor sit amet, ", n)[:n]} {
			if !returns(t, d, dec, []byte(text)) && n > 64 {
				t.Errorf("%d bytes %.20q are refused", n, text)
			}
		}
		letters := make([]byte, n) // many literals
		r := rand.New(rand.NewPCG(3, uint64(n)))
		for i := range letters {
			letters[i] = "etaoin shrdlu"[r.IntN(13)]
		}
		returns(t, d, dec, letters)
	}
	for _, text := range [][]byte{nil, []byte("short"), bytes.Repeat([]byte("a"), dictzstd.MaxText+1)} {
		if returns(t, d, dec, text) {
			t.Errorf("%d bytes are taken", len(text))
		}
	}
}

func FuzzReturns(f *testing.F) {
	d, dec, dict := both(f)
	f.Add(dict[200:400])
	f.Add([]byte(`{"type":"m.room.message","content":{"body":"hello","msgtype":"m.text"}}`))
	f.Add(bytes.Repeat([]byte("\x00\xff"), 300))
	f.Fuzz(func(t *testing.T, text []byte) { returns(t, d, dec, text) })
}

func TestWrongDictionaries(t *testing.T) {
	_, _, dict := both(t)
	for n := range dict[:0x87+8] {
		if _, err := dictzstd.NewDictionary(dict[:n]); err == nil {
			t.Errorf("%d bytes are a dictionary", n)
		}
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 2000 { // what is not one may be taken for one, if it does not break anything
		broken := bytes.Clone(dict)
		broken[r.IntN(140)] ^= byte(1 + r.IntN(255))
		if d, err := dictzstd.NewDictionary(broken); err == nil {
			d.Append(nil, []byte(`{"type":"m.room.message","content":{"body":"hello"}}`))
		}
	}
}
