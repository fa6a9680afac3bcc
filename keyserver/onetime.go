package keyserver

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	"weft/internal/cache"
	"weft/internal/sqldb"
	"weft/keyserver/api"
	"weft/matrix/canonical"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	selectOneTimeSQL = `SELECT key FROM key_one_time WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND key_id = $4`
	insertOneTimeSQL = `INSERT INTO key_one_time (user_id, device_id, algorithm, key_id, added, key)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (user_id, device_id, algorithm, key_id) DO NOTHING`
	nextOneTimeSQL = `SELECT COALESCE(MAX(added), 0) + 1 FROM key_one_time WHERE user_id = $1 AND device_id = $2`
	// The counts of one-time keys, and with the count -1 the algorithms of unused fallback keys.
	countKeysOfSQL = `SELECT algorithm, COUNT(*) FROM key_one_time WHERE user_id = $1 AND device_id = $2 GROUP BY algorithm
		UNION ALL SELECT algorithm, -1 FROM key_fallback WHERE user_id = $1 AND device_id = $2 AND used = 0 ORDER BY 1, 2`
	countOneTimeSQL  = `SELECT algorithm, COUNT(*) FROM key_one_time WHERE user_id = $1 AND device_id = $2 GROUP BY algorithm`
	oldestOneTimeSQL = `SELECT key_id, key FROM key_one_time WHERE user_id = $1 AND device_id = $2 AND algorithm = $3
		ORDER BY added LIMIT 1`
	deleteOneTimeSQL       = `DELETE FROM key_one_time WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND key_id = $4`
	deleteDeviceOneTimeSQL = `DELETE FROM key_one_time WHERE user_id = $1 AND device_id = $2`

	upsertFallbackSQL = `INSERT INTO key_fallback (user_id, device_id, algorithm, key_id, key, used)
		VALUES ($1, $2, $3, $4, $5, 0)
		ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, key = excluded.key, used = 0
		WHERE key_fallback.key_id <> excluded.key_id OR key_fallback.key <> excluded.key`
	useFallbackSQL          = `UPDATE key_fallback SET used = 1 WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 RETURNING key_id, key`
	deleteDeviceFallbackSQL = `DELETE FROM key_fallback WHERE user_id = $1 AND device_id = $2`
)

// oneTimeKey is one uploaded one-time or fallback key.
type oneTimeKey struct {
	algorithm, keyID string
	json             []byte
}

// parseOneTimeKeys checks uploaded keys, whose names are "algorithm:key ID",
// and puts them into a fixed order.
func parseOneTimeKeys(in map[string]json.RawMessage) ([]oneTimeKey, error) {
	if len(in) > maxOneTimeKeys {
		return nil, merr.TooLarge("more than %d keys in one upload", maxOneTimeKeys)
	}
	keys := make([]oneTimeKey, 0, len(in))
	for name, raw := range in {
		alg, keyID, ok := strings.Cut(name, ":")
		if !ok || alg == "" || keyID == "" {
			return nil, merr.InvalidParam("%q is no key name of the form algorithm:id", name)
		}
		if len(raw) > maxKeyBytes {
			return nil, merr.TooLarge("key %q is larger than %d bytes", name, maxKeyBytes)
		}
		c, err := canonical.Canonical(raw)
		if err != nil {
			return nil, merr.BadJSON("key %q: %v", name, err)
		}
		if c[0] != '{' && c[0] != '"' {
			return nil, merr.BadJSON("key %q is neither a string nor an object", name)
		}
		keys = append(keys, oneTimeKey{algorithm: alg, keyID: keyID, json: c})
	}
	sort.Slice(keys, func(i, j int) bool {
		if keys[i].algorithm != keys[j].algorithm {
			return keys[i].algorithm < keys[j].algorithm
		}
		return keys[i].keyID < keys[j].keyID
	})
	return keys, nil
}

// insertOneTimeKeys adds keys. The same key again is fine, and is not stored a second time if it was handed out since;
// another key under the name of one that is there is refused, because nobody could tell which was handed out.
func insertOneTimeKeys(ctx context.Context, tx *sqldb.Tx, user id.User, dev id.Device, keys []oneTimeKey) error {
	if len(keys) == 0 {
		return nil
	}
	var next int64
	if err := tx.QueryRow(ctx, nextOneTimeSQL, string(user), string(dev)).Scan(&next); err != nil {
		return fmt.Errorf("keyserver: ordering one-time keys: %w", err)
	}
	var stored []oneTimeKey
	for i, k := range keys {
		res, err := tx.Exec(ctx, insertOneTimeSQL, string(user), string(dev), k.algorithm, k.keyID, next+int64(i), k.json)
		if err != nil {
			return fmt.Errorf("keyserver: storing one-time key: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return fmt.Errorf("keyserver: storing one-time key: %w", err)
		}
		if n == 0 {
			if err := sameOneTimeKey(ctx, tx, user, dev, k); err != nil {
				return err
			}
			continue
		}
		stored = append(stored, k)
	}
	return dropClaimed(ctx, tx, user, dev, stored)
}

// sameOneTimeKey checks that the key which is there already is the uploaded one. A client that
// got no answer uploads again, perhaps while its first upload is under way on another node.
func sameOneTimeKey(ctx context.Context, tx *sqldb.Tx, user id.User, dev id.Device, k oneTimeKey) error {
	var have []byte
	err := tx.QueryRow(ctx, selectOneTimeSQL, string(user), string(dev), k.algorithm, k.keyID).Scan(&have)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil // handed out between the two statements; it must not be once more
	case err != nil:
		return fmt.Errorf("keyserver: reading one-time key: %w", err)
	case string(have) == string(k.json):
		return nil
	}
	// A key that was handed out, whose name another one has now, may come again too.
	claimed, err := whichClaimed(ctx, tx, user, dev, []int64{k.hash()})
	if err == nil && len(claimed) == 0 {
		err = merr.Unknown("one-time key %s:%s exists already with another value", k.algorithm, k.keyID)
	}
	return err
}

func replaceFallbackKeys(ctx context.Context, tx *sqldb.Tx, user id.User, dev id.Device, keys []oneTimeKey) error {
	for _, k := range keys {
		if _, err := tx.Exec(ctx, upsertFallbackSQL, string(user), string(dev), k.algorithm, k.keyID, k.json); err != nil {
			return fmt.Errorf("keyserver: storing fallback key: %w", err)
		}
	}
	return nil
}

// oneTimeCounts counts a device's keys by algorithm. signed_curve25519 is
// always there, also with 0: clients upload more only when they are told.
func oneTimeCounts(ctx context.Context, q sqldb.Querier, user id.User, dev id.Device) (map[string]int, error) {
	counts := map[string]int{"signed_curve25519": 0}
	rows, err := q.Query(ctx, countOneTimeSQL, string(user), string(dev))
	if err != nil {
		return nil, fmt.Errorf("keyserver: counting one-time keys: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var alg string
		var n int
		if err := rows.Scan(&alg, &n); err != nil {
			return nil, fmt.Errorf("keyserver: counting one-time keys: %w", err)
		}
		counts[alg] = n
	}
	return counts, rows.Err()
}

// checkOneTimeCounts refuses an upload after which a device has too many keys. It is known only
// then, because some of them may be there already.
func checkOneTimeCounts(counts map[string]int) error {
	total := 0
	for _, n := range counts {
		total += n
	}
	if total > maxOneTimeKeys {
		return merr.TooLarge("a device may keep at most %d one-time keys", maxOneTimeKeys)
	}
	return nil
}

// KeyCounts implements api.Keys.
func (s *Server) KeyCounts(ctx context.Context, user id.User, dev id.Device) (api.KeyCounts, error) {
	return s.counts.Load(deviceID{user, dev}, func() (api.KeyCounts, error) { return s.countKeys(ctx, user, dev) })
}

const (
	// countsBytes bounds the memory of cached counts.
	countsBytes = 4 << 20
	countsTTL   = time.Minute
	// sharedCountsTTL is for how long a node believes its counts when keys were uploaded or handed out on another
	// one and the message about it was lost. It is also how often a device that syncs all the time has them counted,
	// by one query.
	sharedCountsTTL = 2 * time.Second
	// topicCounts carries the devices whose keys changed, to the other nodes.
	topicCounts = "keyserver.counts"
)

// deviceID names a device.
type deviceID struct {
	user   id.User
	device id.Device
}

// newCounts makes the cache of counts. Each /sync of a device with keys asks for them, many times a second where rooms are
// busy, and they change seldom.
func newCounts(cfg Config) (*cache.Cache[deviceID, api.KeyCounts], error) {
	life := countsTTL
	if cfg.Shared {
		life = sharedCountsTTL
	}
	return cache.New(countsBytes, life, cfg.Now, func(d deviceID, c api.KeyCounts) int {
		return len(d.user) + len(d.device) + 50*(len(c.OneTime)+len(c.UnusedFallback))
	})
}

// followCounts hears from other nodes whose keys changed.
func (s *Server) followCounts() (cancel func()) {
	return s.Bus.Subscribe(topicCounts, func(data []byte) {
		var d deviceMessage
		if json.Unmarshal(data, &d) != nil || d.User == "" {
			s.counts.Clear() // a node of another version
			return
		}
		s.counts.Drop(deviceID{d.User, d.Device})
	})
}

// deviceMessage is a message of topicCounts.
type deviceMessage struct {
	User   id.User   `json:"u"`
	Device id.Device `json:"d"`
}

// recount makes the counts of a device be read anew, on all nodes, after a transaction that changes its keys.
func (s *Server) recount(tx *sqldb.Tx, user id.User, dev id.Device) {
	tx.OnCommit(func() {
		s.counts.Drop(deviceID{user, dev})
		if !s.Shared {
			return
		}
		data, err := json.Marshal(deviceMessage{user, dev})
		if err != nil {
			data = nil // cannot be (strings only); nil reads as "any device"
		}
		s.Bus.Publish(topicCounts, data)
	})
}

// countKeys counts a device's keys in the database.
func (s *Server) countKeys(ctx context.Context, user id.User, dev id.Device) (api.KeyCounts, error) {
	out := api.KeyCounts{OneTime: map[string]int{"signed_curve25519": 0}, UnusedFallback: []string{}}
	rows, err := s.DB.Query(ctx, countKeysOfSQL, string(user), string(dev))
	if err != nil {
		return api.KeyCounts{}, fmt.Errorf("keyserver: counting keys: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var alg string
		var n int
		if err := rows.Scan(&alg, &n); err != nil {
			return api.KeyCounts{}, fmt.Errorf("keyserver: counting keys: %w", err)
		}
		if n < 0 {
			out.UnusedFallback = append(out.UnusedFallback, alg)
			continue
		}
		out.OneTime[alg] = n
	}
	return out, rows.Err()
}

// claimLocal takes one key of a device: the oldest one-time key, or else the
// fallback key, or nothing.
func (s *Server) claimLocal(ctx context.Context, user id.User, dev id.Device, alg string) (keyID string, key []byte, err error) {
	err = s.DB.Update(ctx, func(tx *sqldb.Tx) (err error) {
		s.recount(tx, user, dev)
		if keyID, key, err = s.claimOneTime(ctx, tx, user, dev, alg); err != nil || key != nil {
			return err
		}
		return s.claimFallback(ctx, tx, user, dev, alg, &keyID, &key)
	})
	return keyID, key, err
}

// claimOneTime takes a device's oldest one-time key; key is nil where there is none.
func (s *Server) claimOneTime(ctx context.Context, tx *sqldb.Tx, user id.User, dev id.Device, alg string) (keyID string, key []byte, err error) {
	for {
		err := tx.QueryRow(ctx, oldestOneTimeSQL, string(user), string(dev), alg).Scan(&keyID, &key)
		if errors.Is(err, sql.ErrNoRows) {
			return "", nil, nil
		}
		if err != nil {
			return "", nil, fmt.Errorf("keyserver: claiming a one-time key: %w", err)
		}
		res, err := tx.Exec(ctx, deleteOneTimeSQL, string(user), string(dev), alg, keyID)
		if err != nil {
			return "", nil, fmt.Errorf("keyserver: claiming a one-time key: %w", err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return "", nil, fmt.Errorf("keyserver: claiming a one-time key: %w", err)
		}
		if n == 1 {
			return keyID, key, s.noteClaimed(ctx, tx, user, dev, oneTimeKey{alg, keyID, key})
		}
		// Another node took this key between our two statements.
	}
}

func (s *Server) claimFallback(ctx context.Context, tx *sqldb.Tx, user id.User, dev id.Device, alg string, keyID *string, key *[]byte) error {
	err := tx.QueryRow(ctx, useFallbackSQL, string(user), string(dev), alg).Scan(keyID, key)
	if errors.Is(err, sql.ErrNoRows) {
		*keyID, *key = "", nil
		return nil
	}
	if err != nil {
		return fmt.Errorf("keyserver: claiming a fallback key: %w", err)
	}
	return nil
}
