package serverkey

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"weft/matrix/id"
)

// maxFile bounds what is read of a key file.
const maxFile = 64 << 10

// Key is a signing key of a server.
type Key struct {
	Server  id.Server
	ID      id.KeyID // "ed25519:VERSION"
	Private ed25519.PrivateKey
}

// Public gives the public half.
func (k Key) Public() ed25519.PublicKey {
	return ed25519.PublicKey(k.Private[ed25519.SeedSize:])
}

// versionForm is what a key version may look like.
//
// spec: server-server §2.2.1 (Publishing keys): the version matches [a-zA-Z0-9_].
var versionForm = regexp.MustCompile(`^[a-zA-Z0-9_]{1,64}$`)

// Generate makes a new key with a random version.
func Generate(server id.Server) (Key, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("generate signing key: %w", err)
	}
	const letters = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
	raw := make([]byte, 6)
	if _, err := rand.Read(raw); err != nil {
		return Key{}, fmt.Errorf("generate key version: %w", err)
	}
	version := []byte("a_")
	for _, b := range raw {
		version = append(version, letters[int(b)%len(letters)])
	}
	return Key{Server: server, ID: id.KeyID("ed25519:" + string(version)), Private: priv}, nil
}

// Marshal gives the key's line in a key file.
func (k Key) Marshal() []byte {
	return fmt.Appendf(nil, "ed25519 %s %s\n", strings.TrimPrefix(string(k.ID), "ed25519:"),
		base64.RawStdEncoding.EncodeToString(k.Private.Seed()))
}

// Parse reads a key file: at least one key.
func Parse(server id.Server, data []byte) ([]Key, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("key file is larger than %d bytes", maxFile)
	}
	var keys []Key
	n := 0
	for line := range bytes.Lines(data) {
		n++
		fields := strings.Fields(string(line))
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 3 || fields[0] != "ed25519" {
			return nil, fmt.Errorf("key file line %d: want \"ed25519 VERSION SEED\"", n)
		}
		if !versionForm.MatchString(fields[1]) {
			return nil, fmt.Errorf("key file line %d: version %q may hold letters, digits and _ only", n, fields[1])
		}
		seed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(fields[2], "="))
		if err != nil || len(seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("key file line %d: the seed must be %d bytes in base64", n, ed25519.SeedSize)
		}
		keys = append(keys, Key{Server: server, ID: id.KeyID("ed25519:" + fields[1]), Private: ed25519.NewKeyFromSeed(seed)})
	}
	if len(keys) == 0 {
		return nil, errors.New("key file holds no key")
	}
	return keys, nil
}

// Load reads the signing key, the file's first. The warning is not empty where
// others than the owner may read the file.
func Load(server id.Server, path string) (key Key, warning string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return Key{}, "", fmt.Errorf("signing key: %w", err)
	}
	if info.Size() > maxFile {
		return Key{}, "", fmt.Errorf("signing key %s: larger than %d bytes", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Key{}, "", fmt.Errorf("signing key: %w", err)
	}
	keys, err := Parse(server, data)
	if err != nil {
		return Key{}, "", fmt.Errorf("signing key %s: %w", path, err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		warning = fmt.Sprintf("signing key %s can be read by others (mode %04o); it should be 0600", path, info.Mode().Perm())
	}
	return keys[0], warning, nil
}

// Write stores a new key; it never replaces a file. The file is on disk when it
// returns: a server that lost its key would lose its name.
func Write(path string, key Key) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write signing key: %w", err)
	}
	defer func() {
		if cErr := f.Close(); err == nil && cErr != nil {
			err = fmt.Errorf("write signing key: %w", cErr)
		}
	}()
	if _, err := f.Write(key.Marshal()); err != nil {
		return fmt.Errorf("write signing key: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write signing key: %w", err)
	}
	return nil
}

// LoadOrGenerate reads the key, or makes one where there is no file.
func LoadOrGenerate(server id.Server, path string) (key Key, warning string, err error) {
	key, warning, err = Load(server, path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, warning, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Key{}, "", fmt.Errorf("signing key: %w", err)
	}
	if key, err = Generate(server); err != nil {
		return Key{}, "", err
	}
	if err := Write(path, key); err != nil {
		if errors.Is(err, fs.ErrExist) {
			// Another process was faster; its key counts.
			return Load(server, path)
		}
		return Key{}, "", err
	}
	return key, "", nil
}
