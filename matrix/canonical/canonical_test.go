package canonical

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weft/matrix/merr"
)

// spec: appendices §3.1.2 (Examples)
func TestSpecVectors(t *testing.T) {
	tests := []struct{ in, want string }{
		{`{}`, `{}`},
		{"{\n    \"one\": 1,\n    \"two\": \"Two\"\n}", `{"one":1,"two":"Two"}`},
		{"{\n    \"b\": \"2\",\n    \"a\": \"1\"\n}", `{"a":"1","b":"2"}`},
		{`{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
		{`{
    "auth": {
        "success": true,
        "mxid": "@john.doe:example.com",
        "profile": {
            "display_name": "John Doe",
            "three_pids": [
                {"medium": "email", "address": "john.doe@example.org"},
                {"medium": "msisdn", "address": "123456789"}
            ]
        }
    }
}`, `{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`},
		{`{ "a": "日本語" }`, `{"a":"日本語"}`},
		{`{ "本": 2, "日": 1 }`, `{"日":1,"本":2}`},
		{`{ "a": "\u65E5" }`, `{"a":"日"}`},
		{`{ "a": null }`, `{"a":null}`},
	}
	for _, tc := range tests {
		for name, form := range map[string]func([]byte) ([]byte, error){"strict": Canonical, "lenient": CanonicalLenient} {
			got, err := form([]byte(tc.in))
			if err != nil || string(got) != tc.want {
				t.Errorf("%s: %s\n gives %s, %v\n  want %s", name, tc.in, got, err, tc.want)
			}
		}
	}
	// The last example turns numbers into integers; that is what Marshal does with
	// values. In events of strict room versions such numbers are refused.
	got, err := Marshal(json.RawMessage(`{ "a": -0, "b": 1e10 }`))
	if err != nil || string(got) != `{"a":0,"b":10000000000}` {
		t.Errorf("%s, %v", got, err)
	}
}

func TestRewriting(t *testing.T) {
	tests := []struct{ in, want string }{
		{` [ 1 , 2 ] `, `[1,2]`},
		{`[]`, `[]`},
		{`[ ]`, `[]`},
		{`{ }`, `{}`},
		{`"\/"`, `"/"`},
		{`"\u0041\u00e9\ud83d\ude00"`, `"Aé😀"`},
		{`"\u0000\u0008\u0009\u000A\u000b\u000C\u000d\u001F\u0022\u005c\u007f"`, `"\u0000\b\t\n\u000b\f\r\u001f\"\\` + "\x7f" + `"`},
		{`{"b":1,"a":{"d":[{"z":1,"y":2}],"c":3}}`, `{"a":{"c":3,"d":[{"y":2,"z":1}]},"b":1}`},
		{`-0`, `0`},
		{`[-0,-1]`, `[0,-1]`},
		// Keys go by code points, also where escapes would sort otherwise.
		{`{"\\":1,"[":2,"]":3}`, `{"[":2,"\\":1,"]":3}`},
		{`{"\"":1,"!":2,"#":3}`, `{"!":2,"\"":1,"#":3}`},
		{`{"a\n":1,"a\t":2,"a ":3,"a":4}`, `{"a":4,"a\t":2,"a\n":1,"a ":3}`},
		{`{"\u001f":1,"\u0001":2,"\b":3}`, `{"\u0001":2,"\b":3,"\u001f":1}`},
		// UTF-16 would put the surrogates of U+10000 before U+FFFF.
		{"{\"\U00010000\":1,\"\uffff\":2}", "{\"\uffff\":2,\"\U00010000\":1}"},
		{`{"aa":1,"a":2}`, `{"a":2,"aa":1}`},
		{`{"a":2,"":1}`, `{"":1,"a":2}`},
	}
	for _, tc := range tests {
		got, err := Canonical([]byte(tc.in))
		if err != nil || string(got) != tc.want {
			t.Errorf("%s gives %s, %v; want %s", tc.in, got, err, tc.want)
			continue
		}
		if !IsCanonical(got) {
			t.Errorf("%s is not recognised as canonical", got)
		}
		if in := []byte(tc.in); tc.in != tc.want && IsCanonical(in) {
			t.Errorf("%s is taken for canonical", in)
		}
	}
}

func TestErrors(t *testing.T) {
	both, strictOnly := true, false
	tests := []struct {
		in   string
		want *merr.Error
		both bool
	}{
		{`1.5`, merr.ErrBadJSON, strictOnly},
		{`{"a":1.0}`, merr.ErrBadJSON, strictOnly},
		{`1e10`, merr.ErrBadJSON, strictOnly},
		{`9007199254740992`, merr.ErrBadJSON, strictOnly},
		{`-9007199254740992`, merr.ErrBadJSON, strictOnly},
		{`123456789012345678901234567890`, merr.ErrBadJSON, strictOnly},
		{`{"a":1,"a":2}`, merr.ErrBadJSON, strictOnly},
		{`{"a":1,"\u0061":2}`, merr.ErrBadJSON, strictOnly},
		{``, merr.ErrNotJSON, both},
		{` `, merr.ErrNotJSON, both},
		{`{`, merr.ErrNotJSON, both},
		{`[1,]`, merr.ErrNotJSON, both},
		{`[1 2]`, merr.ErrNotJSON, both},
		{`{"a"}`, merr.ErrNotJSON, both},
		{`{"a":1,}`, merr.ErrNotJSON, both},
		{`{"a":1 "b":2}`, merr.ErrNotJSON, both},
		{`{a:1}`, merr.ErrNotJSON, both},
		{`{1:1}`, merr.ErrNotJSON, both},
		{`{} x`, merr.ErrNotJSON, both},
		{`{}{}`, merr.ErrNotJSON, both},
		{`01`, merr.ErrNotJSON, both},
		{`+1`, merr.ErrNotJSON, both},
		{`-`, merr.ErrNotJSON, both},
		{`1.`, merr.ErrNotJSON, both},
		{`.5`, merr.ErrNotJSON, both},
		{`1e`, merr.ErrNotJSON, both},
		{`NaN`, merr.ErrNotJSON, both},
		{`Infinity`, merr.ErrNotJSON, both},
		{`-Infinity`, merr.ErrNotJSON, both},
		{`tru`, merr.ErrNotJSON, both},
		{`nullx`, merr.ErrNotJSON, both},
		{`"a`, merr.ErrNotJSON, both},
		{`"\x"`, merr.ErrNotJSON, both},
		{`"\u12"`, merr.ErrNotJSON, both},
		{`"\u12g4"`, merr.ErrNotJSON, both},
		{`"\`, merr.ErrNotJSON, both},
		{"\"\n\"", merr.ErrNotJSON, both},
		{"\"\x00\"", merr.ErrNotJSON, both},
		{"\"\xff\"", merr.ErrNotJSON, both},
		{"\"\xed\xa0\x80\"", merr.ErrNotJSON, both},
		{"\"\xc0\x80\"", merr.ErrNotJSON, both},
		{`"\ud800"`, merr.ErrNotJSON, both},
		{`"\ud800x"`, merr.ErrNotJSON, both},
		{`"\ud800\u0041"`, merr.ErrNotJSON, both},
		{`"\udc00\ud800"`, merr.ErrNotJSON, both},
		{"\ufeff{}", merr.ErrNotJSON, both},
		{"\u00a01", merr.ErrNotJSON, both},
	}
	for _, tc := range tests {
		if out, err := Canonical([]byte(tc.in)); !errors.Is(err, tc.want) {
			t.Errorf("strict %q: %q, %v; want %s", tc.in, out, err, tc.want.Code)
		}
		out, err := CanonicalLenient([]byte(tc.in))
		if tc.both && !errors.Is(err, tc.want) || !tc.both && err != nil {
			t.Errorf("lenient %q: %q, %v", tc.in, out, err)
		}
	}
}

func TestDepthIsBounded(t *testing.T) {
	nest := func(n int, open, inner, shut string) []byte {
		return []byte(strings.Repeat(open, n) + inner + strings.Repeat(shut, n))
	}
	for _, tc := range []struct{ open, inner, shut string }{{"[", "", "]"}, {`{"a":`, "1", "}"}, {"[ ", "", "]"}, {`[{"b":1,"a":`, "1", "}]"}} {
		per := strings.Count(tc.open, "[") + strings.Count(tc.open, "{")
		if _, err := Canonical(nest(MaxDepth/per, tc.open, tc.inner, tc.shut)); err != nil {
			t.Errorf("%q nested to the limit: %v", tc.open, err)
		}
		for _, n := range []int{MaxDepth/per + 1, 200_000} {
			if _, err := Canonical(nest(n, tc.open, tc.inner, tc.shut)); !errors.Is(err, merr.ErrBadJSON) {
				t.Errorf("%q nested %d times: %v", tc.open, n, err)
			}
			if _, err := CanonicalLenient(nest(n, tc.open, tc.inner, tc.shut)); !errors.Is(err, merr.ErrBadJSON) {
				t.Errorf("%q nested %d times, lenient: %v", tc.open, n, err)
			}
		}
	}
}

func TestLenientKeepsNumbersAndLastKey(t *testing.T) {
	tests := []struct{ in, want string }{
		{`{"b":1.0,"a":1e10}`, `{"a":1e10,"b":1.0}`},
		{`[1E+2,-0.0,-0,123456789012345678901234567890]`, `[1E+2,-0.0,0,123456789012345678901234567890]`},
		{`{"a":1,"b":2,"a":3}`, `{"a":3,"b":2}`},
		{`{"a":1,"a":2,"a":{"x":1,"x":2}}`, `{"a":{"x":2}}`},
		{`{"\u0061":1,"a":2}`, `{"a":2}`},
	}
	for _, tc := range tests {
		got, err := CanonicalLenient([]byte(tc.in))
		if err != nil || string(got) != tc.want {
			t.Errorf("%s gives %s, %v; want %s", tc.in, got, err, tc.want)
		}
		again, err := CanonicalLenient(got)
		if err != nil || &again[0] != &got[0] {
			t.Errorf("%s is not recognised", got)
		}
	}
}

func TestInteger(t *testing.T) {
	tests := []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0", 0, true}, {"-0", 0, true}, {"-0.0e5", 0, true}, {"12", 12, true}, {"-12", -12, true}, {"1.0", 1, true}, {"1e3", 1000, true},
		{"1.5e1", 15, true}, {"300e-2", 3, true}, {"1432735824653.0", 1432735824653, true}, {"9223372036854775807", 1<<63 - 1, true},
		{"9.223372036854775807e18", 1<<63 - 1, true}, {"-9.223372036854775808e18", -1 << 63, true},
		{"9223372036854775808", 0, false}, {"9.3e18", 0, false}, {"1e19", 0, false}, {"1e999999999999", 0, false}, {"0e999999999", 0, true},
		{"1.5", 0, false}, {"1e-1", 0, false}, {"", 0, false}, {"x", 0, false}, {"1x", 0, false}, {`"1"`, 0, false}, {"null", 0, false}, {"+1", 0, false}, {"01", 0, false},
	}
	for _, tc := range tests {
		if n, ok := Integer([]byte(tc.in)); n != tc.want || ok != tc.ok {
			t.Errorf("Integer(%q) = %d, %v", tc.in, n, ok)
		}
	}
}

func TestMarshal(t *testing.T) {
	got, err := Marshal(map[string]any{"b": []int{1}, "a": "<&>\u2028", "c": 1.0})
	if err != nil || string(got) != "{\"a\":\"<&>\u2028\",\"b\":[1],\"c\":1}" {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := Marshal(1.5); !errors.Is(err, merr.ErrBadJSON) {
		t.Errorf("1.5: %v", err)
	}
	if _, err := Marshal(uint64(1 << 60)); !errors.Is(err, merr.ErrBadJSON) {
		t.Errorf("2^60: %v", err)
	}
	if _, err := Marshal(func() {}); err == nil {
		t.Error("a function was encoded")
	}
}

func TestCanonicalTextIsNotCopied(t *testing.T) {
	in := []byte(`{"a":[1,"x\n日",{"b":null}],"c":true}`)
	out, err := Canonical(in)
	if err != nil || &out[0] != &in[0] {
		t.Fatalf("copied: %s, %v", out, err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Canonical(in); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// value draws a JSON value of the kinds that encoding/json decodes to.
func value(t *rapid.T, depth int) any {
	kinds := 6
	if depth > 3 {
		kinds = 4
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return rapid.StringMatching(`([a-c"\\/ \x00-\x1f\x7fé日\x{10000}\x{ffff}]|plain text){0,6}`).Draw(t, "string")
	case 1:
		return rapid.Int64Range(MinInt, MaxInt).Draw(t, "int")
	case 2:
		return rapid.Bool().Draw(t, "bool")
	case 3:
		return nil
	case 4:
		list := make([]any, rapid.IntRange(0, 4).Draw(t, "len"))
		for i := range list {
			list[i] = value(t, depth+1)
		}
		return list
	default:
		obj := make(map[string]any)
		for range rapid.IntRange(0, 5).Draw(t, "size") {
			obj[rapid.StringMatching(`[a-c"\\\x00-\x1f!#\[\]日\x{10000}\x{ffff}]{0,3}`).Draw(t, "key")] = value(t, depth+1)
		}
		return obj
	}
}

// wanted is the canonical form by the definition: sorted by code points, shortest form.
func wanted(out *strings.Builder, v any) {
	switch v := v.(type) {
	case string:
		wantedString(out, v)
	case []any:
		out.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				out.WriteByte(',')
			}
			wanted(out, e)
		}
		out.WriteByte(']')
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		out.WriteByte('{')
		for i, k := range keys {
			if i > 0 {
				out.WriteByte(',')
			}
			wantedString(out, k)
			out.WriteByte(':')
			wanted(out, v[k])
		}
		out.WriteByte('}')
	case nil:
		out.WriteString("null")
	default:
		fmt.Fprint(out, v)
	}
}

func wantedString(out *strings.Builder, s string) {
	short := map[rune]string{'"': `\"`, '\\': `\\`, 8: `\b`, 9: `\t`, 10: `\n`, 12: `\f`, 13: `\r`}
	out.WriteByte('"')
	for _, r := range s {
		switch e, ok := short[r]; {
		case ok:
			out.WriteString(e)
		case r < 0x20:
			fmt.Fprintf(out, `\u%04x`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
}

// messy writes a value in a random JSON form: spaces, escapes, shuffled keys.
func messy(out *strings.Builder, v any, rnd *rand.Rand) {
	space := func() {
		for range rnd.IntN(3) {
			out.WriteByte(" \t\n\r"[rnd.IntN(4)])
		}
	}
	str := func(s string) {
		out.WriteByte('"')
		for _, r := range s {
			switch {
			case r > 0xffff && rnd.IntN(2) == 0:
				r -= 0x10000
				fmt.Fprintf(out, `\u%04X\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
			case r < 0x20 || r == '"' || r == '\\' || r <= 0xffff && rnd.IntN(3) == 0:
				fmt.Fprintf(out, `\u%04X`, r)
			default:
				out.WriteRune(r)
			}
		}
		out.WriteByte('"')
	}
	space()
	switch v := v.(type) {
	case string:
		str(v)
	case int64:
		out.WriteString(strconv.FormatInt(v, 10))
	case []any:
		out.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				out.WriteByte(',')
			}
			messy(out, e, rnd)
		}
		space()
		out.WriteByte(']')
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		rnd.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		out.WriteByte('{')
		for i, k := range keys {
			if i > 0 {
				out.WriteByte(',')
			}
			space()
			str(k)
			space()
			out.WriteByte(':')
			messy(out, v[k], rnd)
		}
		space()
		out.WriteByte('}')
	case nil:
		out.WriteString("null")
	default:
		fmt.Fprint(out, v)
	}
	space()
}

func TestEveryFormOfAValueHasOneCanonicalForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := value(t, 0)
		var want, in strings.Builder
		wanted(&want, v)
		seed := rapid.Uint64().Draw(t, "seed")
		messy(&in, v, rand.New(rand.NewPCG(seed, 1)))
		if !IsCanonical([]byte(want.String())) {
			t.Fatalf("%s is not recognised as canonical", want.String())
		}
		for _, form := range []func([]byte) ([]byte, error){Canonical, CanonicalLenient} {
			got, err := form([]byte(in.String()))
			if err != nil || string(got) != want.String() {
				t.Fatalf("%s\n gives %s, %v\n  want %s", in.String(), got, err, want.String())
			}
		}
		if obj, ok := v.(map[string]any); ok {
			n := 0
			for c := Object([]byte(want.String())); c.Next(); n++ {
				if _, ok := obj[unescape(c.Key())]; !ok || !IsCanonical(c.Value()) {
					t.Fatalf("the walk over %s gave %s: %s", want.String(), c.Key(), c.Value())
				}
			}
			if n != len(obj) {
				t.Fatalf("the walk over %s gave %d members of %d", want.String(), n, len(obj))
			}
		}
	})
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":1,"a":[1.5,"\ud83d\ude00",null]}`, `{"a":1,"a":2}`, `[-0,1e400,"\u001f"]`, `{"\\":1,"[":2}`, "\"\xff\"", strings.Repeat("[", 101)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		before := bytes.Clone(in)
		strictOut, strictErr := Canonical(in)
		lenientOut, lenientErr := CanonicalLenient(in)
		if !bytes.Equal(in, before) {
			t.Fatal("the input was written to")
		}
		if IsCanonical(in) && (strictErr != nil || !bytes.Equal(strictOut, in)) {
			t.Fatalf("%q is canonical, yet gives %q, %v", in, strictOut, strictErr)
		}
		if strictErr == nil {
			if !IsCanonical(strictOut) {
				t.Fatalf("%q gives %q, which is not canonical", in, strictOut)
			}
			if lenientErr != nil || !bytes.Equal(lenientOut, strictOut) {
				t.Fatalf("%q gives %q strictly and %q, %v leniently", in, strictOut, lenientOut, lenientErr)
			}
		}
		if lenientErr == nil {
			again, err := CanonicalLenient(lenientOut)
			if err != nil || !bytes.Equal(again, lenientOut) {
				t.Fatalf("%q gives %q, and that gives %q, %v", in, lenientOut, again, err)
			}
			if !json.Valid(in) || !json.Valid(lenientOut) {
				t.Fatalf("%q was accepted as JSON", in)
			}
		}
		for c := Object(in); c.Next(); {
			_, _ = String(c.Value())
			_ = c.Key()
		}
		for c := Array(in); c.Next(); {
			Integer(c.Value())
		}
		SignatureKeys(in, "a")
	})
}

var benchEvent = []byte(`{"auth_events":["$urlsafe-base64EncodedHash0000000000000000000001","$urlsafe-base64EncodedHash0000000000000000000002","$urlsafe-base64EncodedHash0000000000000000000003"],"content":{"body":"The quick brown fox jumps over the lazy dog, and then it does so again.","msgtype":"m.text"},"depth":1234,"hashes":{"sha256":"thishashcoversallfieldsincasethisisredacted00"},"origin_server_ts":1700000000000,"prev_events":["$urlsafe-base64EncodedHash0000000000000000000004"],"room_id":"!abcdefghijklmnopqr:example.org","sender":"@someone:example.org","signatures":{"example.org":{"ed25519:key":"a86bytesignatureoftheredactedeventa86bytesignatureoftheredactedeventa86bytesignature00"}},"type":"m.room.message"}`)

func BenchmarkCanonicalAlready(b *testing.B) {
	b.SetBytes(int64(len(benchEvent)))
	b.ReportAllocs()
	for b.Loop() {
		if !IsCanonical(benchEvent) {
			b.Fatal("not canonical")
		}
	}
}

func BenchmarkCanonicalRewrite(b *testing.B) {
	in := append([]byte(" "), benchEvent...)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Canonical(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWalk(b *testing.B) {
	b.SetBytes(int64(len(benchEvent)))
	b.ReportAllocs()
	for b.Loop() {
		for c := Object(benchEvent); c.Next(); {
		}
	}
}
