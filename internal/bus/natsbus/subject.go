package natsbus

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

func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}
