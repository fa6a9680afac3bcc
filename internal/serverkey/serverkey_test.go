package serverkey

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The key of the specification's signing examples.
//
// spec: appendices §3.1 (Test vectors for signing)
const specSeed = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, file string
		id         string
		err        string
	}{
		{"one", "ed25519 1 " + specSeed + "\n", "ed25519:1", ""},
		{"no newline", "ed25519 auto " + specSeed, "ed25519:auto", ""},
		{"padded", "ed25519 a_b " + specSeed + "=\n", "ed25519:a_b", ""},
		{"comment and old key", "# new\n\ned25519 2 " + specSeed + "\r\ned25519 1 " + specSeed + "\n", "ed25519:2", ""},
		{"empty", "\n", "", "no key"},
		{"other algorithm", "rsa 1 " + specSeed, "", "line 1"},
		{"short seed", "\ned25519 1 AAAA", "", "line 2: the seed"},
		{"no base64", "ed25519 1 !!!", "", "the seed"},
		{"bad version", "ed25519 a:b " + specSeed, "", "version"},
		{"too many fields", "ed25519 1 " + specSeed + " x", "", "want"},
		{"too large", strings.Repeat("#", maxFile+1), "", "larger"},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys, err := Parse("x", []byte(c.file))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got %v, want an error about %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if string(keys[0].ID) != c.id || keys[0].Server != "x" {
				t.Errorf("got %s %s", keys[0].Server, keys[0].ID)
			}
			want, err := base64.RawStdEncoding.DecodeString(specSeed)
			if err != nil || !bytes.Equal(keys[0].Private.Seed(), want) {
				t.Errorf("seed %x, want %x (%v)", keys[0].Private.Seed(), want, err)
			}
			if !keys[0].Public().Equal(keys[0].Private.Public()) {
				t.Error("the public key is not the private key's")
			}
		})
	}
}

func TestGenerateAndReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "signing.key")
	first, warning, err := LoadOrGenerate("x", path)
	if err != nil || warning != "" {
		t.Fatal(err, warning)
	}
	second, warning, err := LoadOrGenerate("x", path)
	if err != nil || warning != "" {
		t.Fatal(err, warning)
	}
	if first.ID != second.ID || !bytes.Equal(first.Private, second.Private) {
		t.Error("the key changed")
	}
	if !ed25519.Verify(first.Public(), []byte("m"), ed25519.Sign(second.Private, []byte("m"))) {
		t.Error("the key does not sign")
	}
	if err := Write(path, first); err == nil {
		t.Error("a key file was replaced")
	}
	other, err := Generate("x")
	if err != nil {
		t.Fatal(err)
	}
	if other.ID == first.ID {
		t.Error("two keys have one version")
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, warning, err := Load("x", path); err != nil || !strings.Contains(warning, "0644") {
			t.Errorf("no warning: %q %v", warning, err)
		}
	}
	if _, _, err := Load("x", filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file is no error")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("ed25519 1 " + specSeed + "\n"))
	f.Add([]byte("# x\ned25519"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := Parse("x", data)
		if err != nil {
			return
		}
		var again []byte
		for _, k := range keys {
			again = append(again, k.Marshal()...)
		}
		twice, err := Parse("x", again)
		if err != nil || len(twice) != len(keys) {
			t.Fatalf("marshalled keys are not read back: %v", err)
		}
	})
}
