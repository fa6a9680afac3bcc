package event

import (
	"crypto/sha256"
	"hash"
	"slices"

	"weft/matrix/canonical"
)

// sink takes the segments of a document: it hashes them, or appends them. What is
// hashed goes through a small buffer, because a hash takes one long write much
// faster than many short ones.
type sink struct {
	hash  hash.Hash
	buf   []byte
	small [256]byte
}

// newHasher makes a sink that hashes. It can be used for several documents, one
// after another.
func newHasher() *sink {
	s := &sink{hash: sha256.New()}
	s.buf = s.small[:0]
	return s
}

func (s *sink) put(segment []byte) {
	if s.hash != nil && len(s.buf)+len(segment) > len(s.small) {
		s.flush()
		if len(segment) > len(s.small) {
			s.hash.Write(segment) // never fails, says hash.Hash
			return
		}
	}
	s.buf = append(s.buf, segment...)
}

// text is put for a few characters of punctuation.
func (s *sink) text(segment string) {
	if s.hash != nil && len(s.buf)+len(segment) > len(s.small) {
		s.flush()
	}
	s.buf = append(s.buf, segment...)
}

func (s *sink) flush() {
	s.hash.Write(s.buf)
	s.buf = s.small[:0]
}

// sum gives the hash of what was put since the last sum.
func (s *sink) sum() [sha256.Size]byte {
	s.flush()
	out := [sha256.Size]byte(s.hash.Sum(s.small[:0]))
	s.hash.Reset()
	return out
}

// emit writes the event with the members in keep only. When redact is not nil
// the content is cut down as it says. Members that follow each other are written
// as one segment.
func (l *layout) emit(s *sink, json []byte, keep fieldSet, redact *ContentRedaction) {
	first := true
	runStart, runEnd := int32(-1), int32(0)
	flush := func() {
		if runStart < 0 {
			return
		}
		if !first {
			s.text(",")
		}
		first = false
		s.put(json[runStart:runEnd])
		runStart = -1
	}
	s.text("{")
	for _, m := range l.members {
		switch {
		case !keep.has(m.field):
			flush()
		case m.field == fieldContent && redact != nil && !redact.All:
			flush()
			if !first {
				s.text(",")
			}
			first = false
			s.text(`"content":`)
			redact.emit(s, m.value.of(json))
		default:
			if runStart < 0 {
				runStart = m.key
			}
			runEnd = m.value.end
		}
	}
	flush()
	s.text("}")
}

// emit writes a content object with what survives only.
func (c *ContentRedaction) emit(s *sink, content []byte) {
	s.text("{")
	first := true
	for m := canonical.Object(content); m.Next(); {
		key := m.Key()
		inner, nested := c.Nested[string(key)]
		switch {
		case slices.Contains(c.Keys, string(key)):
			comma(s, &first)
			s.put(content[m.KeyStart:m.End])
		case nested && m.Value()[0] == '{':
			// spec?: a third_party_invite that is no object has no `signed` key; nothing
			// of it survives then.
			comma(s, &first)
			s.put(content[m.KeyStart:m.ValueStart])
			(&ContentRedaction{Keys: inner}).emit(s, m.Value())
		}
	}
	s.text("}")
}

func comma(s *sink, first *bool) {
	if !*first {
		s.text(",")
	}
	*first = false
}

// redacted writes the redacted form of an event with the members in keep only.
//
// spec: rooms/v1 … rooms/v11 (Redactions)
func (l *layout) redacted(s *sink, json []byte, r *Rules, keep fieldSet) {
	c := ContentRedaction{}
	if t := l.at[fieldType]; t.present() {
		if name, ok := canonical.String(t.of(json)); ok {
			c = r.Redaction.Content[name]
		}
	}
	l.emit(s, json, keep&r.redactionKeeps, &c)
}

// essential writes what is signed and what the reference hash covers: the
// redacted form without signatures and unsigned.
//
// spec: server-server §27.1 (Adding hashes and signatures), §27.3 (Calculating the reference hash)
func (l *layout) essential(s *sink, json []byte, r *Rules) {
	l.redacted(s, json, r, allFields&^(1<<fieldSignatures|1<<fieldUnsigned))
}

// contentHash hashes the event in place.
//
// spec: server-server §27.4 (Calculating the content hash)
func (l *layout) contentHash(h *sink, json []byte) [sha256.Size]byte {
	l.emit(h, json, hashedFields, nil)
	return h.sum()
}

// referenceHash hashes the redacted form in place.
func (l *layout) referenceHash(h *sink, json []byte, r *Rules) [sha256.Size]byte {
	l.essential(h, json, r)
	return h.sum()
}
