package natsbus

import (
	"encoding/hex"
	"strings"
)

// token makes one token of a NATS subject of any text: letters, digits, "-" and "_" stand for themselves, every other
// byte is "=" and two hexadecimal digits, and the empty text is "=".
func token(s string) string {
	if s == "" {
		return "="
	}
	plain := true
	for i := range len(s) {
		plain = plain && isPlain(s[i])
	}
	if plain {
		return s
	}
	const digits = "0123456789ABCDEF"
	out := make([]byte, 0, len(s)+16)
	for i := range len(s) {
		if c := s[i]; isPlain(c) {
			out = append(out, c)
		} else {
			out = append(out, '=', digits[c>>4], digits[c&15])
		}
	}
	return string(out)
}

// text is what token was given. It tells whether there is any such text.
func text(token string) (s string, ok bool) {
	if token == "=" {
		return "", true
	}
	var out strings.Builder
	for rest := token; ; {
		before, after, found := strings.Cut(rest, "=")
		for i := range len(before) {
			if !isPlain(before[i]) {
				return "", false
			}
		}
		if !found {
			if rest == token {
				return token, token != ""
			}
			out.WriteString(before)
			return out.String(), true
		}
		out.WriteString(before)
		if len(after) < 2 {
			return "", false
		}
		b, err := hex.DecodeString(after[:2])
		if err != nil || isPlain(b[0]) || strings.ToUpper(after[:2]) != after[:2] {
			return "", false
		}
		out.WriteByte(b[0])
		rest = after[2:]
	}
}

func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}
