package event

import (
	"crypto/sha256"
	"hash"
	"slices"

	"weft/matrix/canonical"
)

// sink takes the segments of a document: it hashes them, or appends them.
type sink struct {
	hash hash.Hash
	buf  []byte
}

func (s *sink) put(segment []byte) {
	if s.hash != nil {
		s.hash.Write(segment) // never fails, says hash.Hash
		return
	}
	s.buf = append(s.buf, segment...)
}

func (s *sink) text(segment string) {
	if s.hash != nil {
		s.hash.Write([]byte(segment))
		return
	}
	s.buf = append(s.buf, segment...)
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
func (l *layout) contentHash(json []byte) [sha256.Size]byte {
	s := sink{hash: sha256.New()}
	l.emit(&s, json, hashedFields, nil)
	return s.sum()
}

// referenceHash hashes the redacted form in place.
func (l *layout) referenceHash(json []byte, r *Rules) [sha256.Size]byte {
	s := sink{hash: sha256.New()}
	l.essential(&s, json, r)
	return s.sum()
}

func (s *sink) sum() [sha256.Size]byte {
	var out [sha256.Size]byte
	s.hash.Sum(out[:0])
	return out
}
