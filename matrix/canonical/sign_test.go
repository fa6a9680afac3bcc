package canonical

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"

	"weft/matrix/id"
	"weft/matrix/merr"
)

func vectorKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	seed, err := DecodeBase64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

// spec: appendices §10.2 (JSON Signing)
func TestSigningVectors(t *testing.T) {
	priv := vectorKey(t)
	tests := []struct{ in, want string }{
		{`{}`, `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{`{"one": 1, "two": "Two"}`, `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`},
	}
	for _, tc := range tests {
		got, err := SignJSON([]byte(tc.in), "domain", "ed25519:1", priv)
		if err != nil || string(got) != tc.want {
			t.Errorf("%s gives %s, %v", tc.in, got, err)
		}
		if err := VerifyJSON(got, "domain", "ed25519:1", priv.Public().(ed25519.PublicKey)); err != nil {
			t.Error(err)
		}
	}
}

func TestSignaturesAddUp(t *testing.T) {
	priv := vectorKey(t)
	pub := priv.Public().(ed25519.PublicKey)
	obj := []byte(`{"z":1.5,"unsigned":{"age":1},"signatures":{"b":{"ed25519:x":"AA"}},"a":[]}`)
	for _, who := range []string{"c", "a\n", "b"} {
		var err error
		if obj, err = SignJSON(obj, who, "ed25519:1", priv); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := CanonicalLenient(obj); err != nil || !bytes.Equal(again, obj) {
		t.Errorf("the result is not canonical: %s", obj)
	}
	for _, who := range []string{"a\n", "b", "c"} {
		if err := VerifyJSON(obj, who, "ed25519:1", pub); err != nil {
			t.Errorf("%q: %v", who, err)
		}
	}
	if keys := Signatures(obj, "b"); !slices.Equal(keys, []id.KeyID{"ed25519:1", "ed25519:x"}) {
		t.Errorf("keys of b: %v", keys)
	}
	if keys := Signatures(obj, "nobody"); keys != nil {
		t.Errorf("keys of nobody: %v", keys)
	}
	if !strings.Contains(string(obj), `"unsigned":{"age":1}`) {
		t.Errorf("unsigned was lost: %s", obj)
	}
	// unsigned may change, anything else may not.
	if err := VerifyJSON(bytes.Replace(obj, []byte(`"age":1`), []byte(`"age":2`), 1), "c", "ed25519:1", pub); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string][]byte{
		"changed value":    bytes.Replace(obj, []byte(`1.5`), []byte(`1.6`), 1),
		"bad base64":       []byte(`{"signatures":{"c":{"ed25519:1":"!"}}}`),
		"short signature":  []byte(`{"signatures":{"c":{"ed25519:1":"AAAA"}}}`),
		"number":           []byte(`{"signatures":{"c":{"ed25519:1":1}}}`),
		"list":             []byte(`{"signatures":[]}`),
		"nothing":          []byte(`{}`),
		"entity is a text": []byte(`{"signatures":{"c":"x"}}`),
	} {
		if err := VerifyJSON(bad, "c", "ed25519:1", pub); !errors.Is(err, merr.ErrInvalidSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := VerifyJSON(obj, "c", "ed25519:1", pub[:5]); !errors.Is(err, merr.ErrInvalidSignature) {
		t.Errorf("short key: %v", err)
	}
	for _, bad := range []string{`[]`, `1`, `{`} {
		if _, err := SignJSON([]byte(bad), "c", "ed25519:1", priv); err == nil {
			t.Errorf("%s was signed", bad)
		}
		if err := VerifyJSON([]byte(bad), "c", "ed25519:1", pub); err == nil {
			t.Errorf("%s was verified", bad)
		}
		if Signatures([]byte(bad), "c") != nil {
			t.Errorf("%s has signatures", bad)
		}
	}
}

// spec: appendices §1 (Unpadded Base64)
func TestBase64(t *testing.T) {
	for plain, coded := range map[string]string{"": "", "f": "Zg", "fo": "Zm8", "foo": "Zm9v", "foob": "Zm9vYg", "fooba": "Zm9vYmE", "foobar": "Zm9vYmFy"} {
		if got := EncodeBase64([]byte(plain)); got != coded {
			t.Errorf("%q gives %q", plain, got)
		}
		for _, pad := range []string{"", "=", "=="} {
			if got, err := DecodeBase64(coded + pad); err != nil || string(got) != plain {
				t.Errorf("%q gives %q, %v", coded+pad, got, err)
			}
		}
	}
	for _, s := range []string{"-_-_", "+/+/"} {
		if got, err := DecodeBase64(s); err != nil || !bytes.Equal(got, []byte{0xfb, 0xff, 0xbf}) {
			t.Errorf("%q gives %x, %v", s, got, err)
		}
	}
	for _, bad := range []string{"!", "A", "Zm=9v", "+_+_"} {
		if got, err := DecodeBase64(bad); err == nil {
			t.Errorf("%q gives %x", bad, got)
		}
	}
}

func TestSet(t *testing.T) {
	tests := []struct{ obj, key, value, want string }{
		{`{}`, "a", "1", `{"a":1}`},
		{``, "a", "1", `{"a":1}`},
		{`{"b":2}`, "a", "1", `{"a":1,"b":2}`},
		{`{"a":2,"c":{"x":[1]}}`, "b", "1", `{"a":2,"b":1,"c":{"x":[1]}}`},
		{`{"a":2,"b":3}`, "b", "1", `{"a":2,"b":1}`},
		{`{"\\":2}`, `"`, "1", `{"\"":1,"\\":2}`},
	}
	for _, tc := range tests {
		if got := Set([]byte(tc.obj), tc.key, []byte(tc.value)); string(got) != tc.want {
			t.Errorf("Set(%s, %s) = %s", tc.obj, tc.key, got)
		}
	}
	if Get([]byte(`{"a":1,"b":{"a":2}}`), "b") == nil || Get([]byte(`[1]`), "a") != nil {
		t.Error("Get")
	}
}
