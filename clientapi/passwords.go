package clientapi

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"

	"weft/matrix/merr"
)

// PasswordCost is what hashing one password costs. The defaults (19 MiB, two
// passes, one lane) are OWASP's choice for machines with little memory.
type PasswordCost struct {
	MemoryKiB  uint32
	Passes     uint32
	Lanes      uint8
	Concurrent int64 // hashes at the same time; 0: 2
}

const (
	// maxPassword bounds what is hashed, in bytes.
	maxPassword = 512
	saltLength  = 16
	hashLength  = 32
)

// passwordHasher hashes with argon2id, a bounded number at a time: each takes
// its memory for tens of milliseconds, and a burst of logins on a small machine
// must not take it all.
type passwordHasher struct {
	cost  PasswordCost
	slots *semaphore.Weighted
	// decoy is verified where there is no account, so that the time of an
	// answer does not tell which accounts exist.
	decoy string
	done  func() // called after each hash
}

func newPasswordHasher(cost PasswordCost) *passwordHasher {
	if cost.MemoryKiB == 0 {
		cost.MemoryKiB = 19 * 1024
	}
	if cost.Passes == 0 {
		cost.Passes = 2
	}
	if cost.Lanes == 0 {
		cost.Lanes = 1
	}
	if cost.Concurrent == 0 {
		cost.Concurrent = 2
	}
	h := &passwordHasher{cost: cost, slots: semaphore.NewWeighted(cost.Concurrent), done: func() {}}
	h.decoy = encodeHash(cost, make([]byte, saltLength), make([]byte, hashLength))
	return h
}

// hash returns the PHC string of a password.
func (h *passwordHasher) hash(ctx context.Context, password string) (string, error) {
	if len(password) > maxPassword {
		return "", merr.InvalidParam("the password is longer than %d bytes", maxPassword)
	}
	if err := h.slots.Acquire(ctx, 1); err != nil {
		return "", fmt.Errorf("waiting to hash a password: %w", err)
	}
	defer h.slots.Release(1)
	defer h.done()
	salt := make([]byte, saltLength)
	rand.Read(salt) // never fails (crypto/rand)
	sum := argon2.IDKey([]byte(password), salt, h.cost.Passes, h.cost.MemoryKiB, h.cost.Lanes, hashLength)
	return encodeHash(h.cost, salt, sum), nil
}

// verify tells whether password has the given hash. An empty hash belongs to no
// password; it takes the same time.
func (h *passwordHasher) verify(ctx context.Context, password, encoded string) (bool, error) {
	if len(password) > maxPassword {
		return false, nil
	}
	known := encoded != ""
	if !known {
		encoded = h.decoy
	}
	cost, salt, want, err := decodeHash(encoded)
	if err != nil {
		return false, err
	}
	if err := h.slots.Acquire(ctx, 1); err != nil {
		return false, fmt.Errorf("waiting to check a password: %w", err)
	}
	defer h.slots.Release(1)
	defer h.done()
	got := argon2.IDKey([]byte(password), salt, cost.Passes, cost.MemoryKiB, cost.Lanes, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1 && known, nil
}

func encodeHash(c PasswordCost, salt, sum []byte) string {
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		c.MemoryKiB, c.Passes, c.Lanes, enc.EncodeToString(salt), enc.EncodeToString(sum))
}

var errHashFormat = errors.New("a stored password hash has an unknown format")

func decodeHash(s string) (c PasswordCost, salt, sum []byte, err error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return c, nil, nil, errHashFormat
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.MemoryKiB, &c.Passes, &c.Lanes); err != nil {
		return c, nil, nil, errHashFormat
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return c, nil, nil, errHashFormat
	}
	if sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(sum) == 0 {
		return c, nil, nil, errHashFormat
	}
	return c, salt, sum, nil
}
