package xmatrix

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"weft/matrix/id"
	"weft/matrix/merr"
)

// specKey is the signing key of the specification's JSON signing vectors.
//
// spec: appendices §5 (cryptographic test vectors)
func specKey(t testing.TB) ed25519.PrivateKey {
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

func TestSignable(t *testing.T) {
	cases := []struct {
		name, method, uri   string
		origin, destination id.Server
		content, want       string
	}{
		{"the specification's shape", "POST", "/target", "origin.hs.example.com", "destination.hs.example.com", `{"b": 1, "a": [] }`,
			`{"content":{"a":[],"b":1},"destination":"destination.hs.example.com","method":"POST","origin":"origin.hs.example.com","uri":"/target"}`},
		{"no content", "GET", "/x?a=b&c=d", "a", "b", "",
			`{"destination":"b","method":"GET","origin":"a","uri":"/x?a=b&c=d"}`},
		{"no destination", "GET", "/x", "a", "", "", `{"method":"GET","origin":"a","uri":"/x"}`},
		{"escapes stay as they are in the URI", "GET", "/x/%21abc%3Ahost", "a", "b", "",
			`{"destination":"b","method":"GET","origin":"a","uri":"/x/%21abc%3Ahost"}`},
		{"a quote in the URI", "GET", `/x"<>&`, "a", "b", "", `{"destination":"b","method":"GET","origin":"a","uri":"/x\"<>&"}`},
		{"content of old rooms", "PUT", "/x", "a", "b", `{"n":1.5}`, `{"content":{"n":1.5},"destination":"b","method":"PUT","origin":"a","uri":"/x"}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := Signable(c.method, c.uri, c.origin, c.destination, []byte(c.content))
			if err != nil || string(got) != c.want {
				t.Fatalf("got  %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
	if _, err := Signable("PUT", "/x", "a", "b", []byte(`{"a":`)); err == nil {
		t.Fatal("content that is not JSON was signed")
	}
}

// The specification prints the header's shape and the signing vectors, but no
// signed request; the signature here is that of the vectors' key over the
// specification's object, as its example code computes it.
func TestHeaderOfTheSpecification(t *testing.T) {
	priv := specKey(t)
	h, err := Sign("POST", "/target", "origin.hs.example.com", "destination.hs.example.com", []byte(`{}`), "ed25519:key1", priv)
	if err != nil {
		t.Fatal(err)
	}
	msg := []byte(`{"content":{},"destination":"destination.hs.example.com","method":"POST","origin":"origin.hs.example.com","uri":"/target"}`)
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(priv, msg))
	want := `X-Matrix origin="origin.hs.example.com",destination="destination.hs.example.com",key="ed25519:key1",sig="` + sig + `"`
	if h.String() != want {
		t.Fatalf("got  %s\nwant %s", h, want)
	}
	parsed, err := Parse(h.String())
	if err != nil || parsed != h {
		t.Fatalf("Parse = %+v, %v; want %+v", parsed, err, h)
	}
	if err := parsed.Verify(msg, priv.Public().(ed25519.PublicKey)); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	priv := specKey(t)
	pub := priv.Public().(ed25519.PublicKey)
	h, err := Sign("GET", "/x", "a", "b", nil, "ed25519:1", priv)
	if err != nil {
		t.Fatal(err)
	}
	msg, _ := Signable("GET", "/x", "a", "b", nil)
	other, _ := Signable("GET", "/y", "a", "b", nil)
	noBase64, short := h, h
	noBase64.Signature = "§§§"
	short.Signature = "AAAA"
	padded := h
	padded.Signature += "=="
	cases := []struct {
		name string
		h    Header
		msg  []byte
		pub  ed25519.PublicKey
		ok   bool
	}{
		{"good", h, msg, pub, true},
		{"padded", padded, msg, pub, true},
		{"other request", h, other, pub, false},
		{"other key", h, msg, make(ed25519.PublicKey, ed25519.PublicKeySize), false},
		{"no key", h, msg, nil, false},
		{"no base64", noBase64, msg, pub, false},
		{"short", short, msg, pub, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := c.h.Verify(c.msg, c.pub)
			if (err == nil) != c.ok {
				t.Fatalf("Verify = %v, want ok=%v", err, c.ok)
			}
			if err != nil && !errors.Is(err, merr.ErrUnauthorized) {
				t.Fatalf("not M_UNAUTHORIZED: %v", err)
			}
		})
	}
}

func TestParse(t *testing.T) {
	full := Header{Origin: "origin.example", Destination: "dest.example:8448", Key: "ed25519:key1", Signature: "AB+/cd"}
	noDest := full
	noDest.Destination = ""
	v6 := full
	v6.Origin = "[2001:db8::1]:8448"
	cases := []struct {
		name, in string
		want     *Header
	}{
		{"quoted", `X-Matrix origin="origin.example",destination="dest.example:8448",key="ed25519:key1",sig="AB+/cd"`, &full},
		{"unquoted with colons", `X-Matrix origin=origin.example,destination=dest.example:8448,key=ed25519:key1,sig="AB+/cd"`, &full},
		{"unquoted signature", `X-Matrix origin=origin.example,destination=dest.example:8448,key=ed25519:key1,sig=AB+/cd`, &full},
		{"scheme in another case", `x-mATRIX origin="origin.example",destination="dest.example:8448",key="ed25519:key1",sig="AB+/cd"`, &full},
		{"names in another case", `X-Matrix ORIGIN="origin.example",Destination="dest.example:8448",kEy="ed25519:key1",SIG="AB+/cd"`, &full},
		{"other order", `X-Matrix sig="AB+/cd",key="ed25519:key1",destination="dest.example:8448",origin="origin.example"`, &full},
		{"white space", "X-Matrix    origin=\"origin.example\" \t, \tdestination=\"dest.example:8448\",key = \"ed25519:key1\",  sig=\"AB+/cd\"  ", &full},
		{"empty list elements", `X-Matrix ,origin="origin.example",,destination="dest.example:8448", ,key="ed25519:key1",sig="AB+/cd",`, &full},
		{"escapes", `X-Matrix origin="\origin.exam\ple",destination="dest.example:8448",key="ed25519\:key1",sig="AB+\/cd"`, &full},
		{"unknown parameter", `X-Matrix origin="origin.example",what="ever, \"so\"",destination="dest.example:8448",key="ed25519:key1",sig="AB+/cd"`, &full},
		{"no destination", `X-Matrix origin="origin.example",key="ed25519:key1",sig="AB+/cd"`, &noDest},
		{"empty destination", `X-Matrix origin="origin.example",destination="",key="ed25519:key1",sig="AB+/cd"`, &noDest},
		{"called signature", `X-Matrix origin="origin.example",key="ed25519:key1",signature="AB+/cd"`, &noDest},
		{"IPv6", `X-Matrix origin="[2001:db8::1]:8448",destination="dest.example:8448",key="ed25519:key1",sig="AB+/cd"`, &v6},
		{"IPv6 unquoted", `X-Matrix origin=[2001:db8::1]:8448,destination=dest.example:8448,key=ed25519:key1,sig="AB+/cd"`, &v6},

		{"empty", ``, nil},
		{"scheme only", `X-Matrix`, nil},
		{"scheme and nothing", `X-Matrix `, nil},
		{"bearer", `Bearer abc`, nil},
		{"no origin", `X-Matrix key="ed25519:key1",sig="AB+/cd"`, nil},
		{"bad origin", `X-Matrix origin="a b",key="ed25519:key1",sig="AB+/cd"`, nil},
		{"bad destination", `X-Matrix origin="a",destination="a/b",key="ed25519:key1",sig="AB+/cd"`, nil},
		{"no key", `X-Matrix origin="a",sig="AB+/cd"`, nil},
		{"bad key", `X-Matrix origin="a",key="key1",sig="AB+/cd"`, nil},
		{"no signature", `X-Matrix origin="a",key="ed25519:key1"`, nil},
		{"twice", `X-Matrix origin="a",origin="b",key="ed25519:key1",sig="AB+/cd"`, nil},
		{"unclosed quote", `X-Matrix origin="a",key="ed25519:key1",sig="AB`, nil},
		{"ends in an escape", `X-Matrix origin="a",key="ed25519:key1",sig="AB\`, nil},
		{"text after a quote", `X-Matrix origin="a"b,key="ed25519:key1",sig="AB+/cd"`, nil},
		{"no equals sign", `X-Matrix origin`, nil},
		{"no name", `X-Matrix ="a"`, nil},
		{"quote inside a token", `X-Matrix origin=a"b",key="ed25519:key1",sig="AB"`, nil},
		{"too long", `X-Matrix origin="` + strings.Repeat("a", maxHeader) + `"`, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h, err := Parse(c.in)
			if c.want == nil {
				if !errors.Is(err, merr.ErrUnauthorized) || merr.From(err).Status != 401 {
					t.Fatalf("Parse = %+v, %v; want M_UNAUTHORIZED", h, err)
				}
				return
			}
			if err != nil || h != *c.want {
				t.Fatalf("Parse = %+v, %v; want %+v", h, err, *c.want)
			}
			// What is written is read back, and written the same.
			again, err := Parse(h.String())
			if err != nil || again != h {
				t.Fatalf("%s is read back as %+v, %v", h, again, err)
			}
		})
	}
}

func FuzzXMatrix(f *testing.F) {
	for _, s := range []string{
		`X-Matrix origin="origin.example",destination="dest.example:8448",key="ed25519:key1",sig="AB+/cd"`,
		`X-Matrix origin=origin.example , key=ed25519:key1,sig="A\"B"`, `X-Matrix ,`, `X-Matrix a=`, `X-Matrix a="\`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := Parse(s)
		if err != nil {
			if !errors.Is(err, merr.ErrUnauthorized) {
				t.Fatalf("not M_UNAUTHORIZED: %v", err)
			}
			return
		}
		if strings.ContainsAny(h.Signature, `"\`) || len(h.String()) > maxHeader {
			return // nothing that Sign makes
		}
		again, err := Parse(h.String())
		if err != nil || again != h {
			t.Fatalf("%q is read back as %+v, %v", h, again, err)
		}
	})
}
