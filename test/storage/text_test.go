package storage

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
)

// talk makes text that compresses like what people write: words of an invented language,
// some frequent and most rare (Zipf's law), that no dictionary knows. Stored, 250 bytes of
// it take 163; English prose, from the specification, takes 157.
type talk struct {
	rng   *rand.Rand
	words []string
	zipf  *rand.Zipf
}

func newTalk(seed uint64) *talk {
	t := &talk{rng: rand.New(rand.NewPCG(seed, 5))}
	// The vocabulary is the same whatever the seed.
	v := rand.New(rand.NewPCG(1, 1))
	onset := strings.Fields("t t t t th th th h h h s s s r r n n n d d l l m m w w c c f b g p p y st tr pr ch sh k v")
	nucleus := strings.Fields("e e e e e a a a o o o i i i u ea ou ai")
	coda := strings.Fields("n n n s s s t t r r d d l m ng ck nd st")
	for len(t.words) < 6000 {
		var w strings.Builder
		// Frequent words are short.
		for range 1 + int(math.Log10(float64(len(t.words)+2))*0.8) {
			w.WriteString(onset[v.IntN(len(onset))] + nucleus[v.IntN(len(nucleus))])
			if v.IntN(3) == 0 {
				w.WriteString(coda[v.IntN(len(coda))])
			}
		}
		t.words = append(t.words, w.String())
	}
	t.zipf = rand.NewZipf(t.rng, 1.1, 4, uint64(len(t.words)-1))
	return t
}

// text gives n bytes of sentences.
func (t *talk) text(n int) string {
	var b strings.Builder
	start := true
	for b.Len() < n {
		w := t.words[t.zipf.Uint64()]
		if start {
			w = strings.ToUpper(w[:1]) + w[1:]
		}
		b.WriteString(w)
		start = t.rng.IntN(12) == 0
		switch {
		case start:
			b.WriteString([]string{". ", ". ", ". ", "? ", "! "}[t.rng.IntN(5)])
		case t.rng.IntN(14) == 0:
			b.WriteString(", ")
		case t.rng.IntN(150) == 0:
			fmt.Fprintf(&b, " %d ", t.rng.IntN(3000))
		default:
			b.WriteByte(' ')
		}
	}
	return b.String()[:n]
}

// contentSize is the size of a message's content in JSON.
const contentSize = 300

// message gives the content of a message of contentSize bytes: mostly plain text, some with a
// reply to, or an edit of, what was said before in the room, some in a thread.
func (t *talk) message(earlier, thread string) string {
	relation := ""
	if earlier != "" {
		switch t.rng.IntN(20) {
		case 0, 1:
			relation = `,"m.relates_to":{"m.in_reply_to":{"event_id":"` + earlier + `"}}`
		case 2:
			relation = `,"m.relates_to":{"event_id":"` + thread + `","rel_type":"m.thread"}`
		case 3:
			relation = `,"m.new_content":{"body":"` + t.text(20) + `","msgtype":"m.text"},"m.relates_to":{"event_id":"` + earlier + `","rel_type":"m.replace"}`
		}
	}
	head := `{"body":"`
	tail := `","m.mentions":{},"msgtype":"m.text"` + relation + `}`
	return head + t.text(contentSize-len(head)-len(tail)) + tail
}
