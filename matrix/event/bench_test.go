package event

import (
	"testing"

	"weft/matrix/id"
)

// benchEvent is a message of about 700 bytes in a room of version 11.
func benchEvent(b *testing.B) *Event {
	bl := builder(rulesOf(b, "11"))
	bl.Content = []byte(`{"body":"The quick brown fox jumps over the lazy dog.","msgtype":"m.text"}`)
	bl.PrevEvents = bl.PrevEvents[:1]
	bl.AuthEvents = []id.Event{bl.AuthEvents[0], bl.AuthEvents[0], bl.AuthEvents[0]}
	return mustBuild(b, bl)
}

func bench(b *testing.B, run func(e *Event) error) {
	e := benchEvent(b)
	b.SetBytes(int64(len(e.JSON())))
	b.ReportAllocs()
	for b.Loop() {
		if err := run(e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	bench(b, func(e *Event) error { _, err := Parse(e.JSON(), e.Rules); return err })
}

func BenchmarkParseStored(b *testing.B) {
	bench(b, func(e *Event) error { _, err := ParseStored(e.JSON(), e.ID, e.Rules); return err })
}

func BenchmarkContentHash(b *testing.B) {
	var l layout
	h := newHasher()
	bench(b, func(e *Event) error { l.index(e.JSON()); l.contentHash(h, e.JSON()); return nil })
}

func BenchmarkReferenceHash(b *testing.B) {
	bench(b, func(e *Event) error { e.ReferenceHash(); return nil })
}

func BenchmarkRedact(b *testing.B) {
	bench(b, func(e *Event) error { _, err := e.Redact(); return err })
}

func BenchmarkSign(b *testing.B) {
	priv := vectorKey(b)
	bench(b, func(e *Event) error { _, err := e.Sign(vectorServer, vectorKeyID, priv); return err })
}

func BenchmarkVerify(b *testing.B) {
	keys := vectorKeys(b)
	bench(b, func(e *Event) error { return e.VerifySignatures(keys) })
}

func BenchmarkBuild(b *testing.B) {
	priv := vectorKey(b)
	bl := builder(rulesOf(b, "11"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bl.Build(vectorServer, vectorKeyID, priv); err != nil {
			b.Fatal(err)
		}
	}
}
