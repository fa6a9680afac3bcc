package keyserver

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/internal/sqldb"
	"weft/internal/upkeep"
	"weft/matrix/id"
)

const (
	// claimedFor is how long it is remembered that a one-time key was handed out, and maxClaimed how many of a device are.
	// A call that died with its node is repeated within seconds, but a client that was ended before its upload was
	// answered uploads the same when it is opened again. A device that is not used has no more keys
	// claimed than it left, so remembering it for long costs little.
	claimedFor = 30 * 24 * time.Hour
	maxClaimed = 1_000
)

const (
	// A key that was there a second time, because a node of an older release stored it: its last claim counts.
	upsertClaimedSQL = `INSERT INTO key_claimed (device, key, claimed) VALUES ($1, $2, $3)
		ON CONFLICT (device, key) DO UPDATE SET claimed = excluded.claimed`
	selectClaimedSQL = `SELECT key FROM key_claimed WHERE device = $1 AND key IN ` // (…)
	claimedMuchSQL   = `SELECT device FROM key_claimed GROUP BY device HAVING COUNT(*) > $1`
	deleteTooMuchSQL = `DELETE FROM key_claimed WHERE device = $1 AND key IN
		(SELECT key FROM key_claimed WHERE device = $1 ORDER BY claimed DESC, key LIMIT $3 OFFSET $2)`
	deleteDeviceClaimedSQL = `DELETE FROM key_claimed WHERE device = $1`
	deleteClaimedBeforeSQL = `DELETE FROM key_claimed WHERE (device, key) IN
		(SELECT device, key FROM key_claimed WHERE claimed < $1 ORDER BY claimed LIMIT $2)`
)

// hashOf is what a device or key is found by in key_claimed: 64 bits of a hash. A user could make two keys of
// a device that have the same; then one of them is not stored, as its count of keys says.
func hashOf(parts ...string) int64 {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00"))) // no name has a NUL byte
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

func deviceHash(user id.User, dev id.Device) int64 { return hashOf(string(user), string(dev)) }

func (k oneTimeKey) hash() int64 { return hashOf(k.algorithm, k.keyID, string(k.json)) }

// hours is a time as key_claimed has it.
func hours(t time.Time) int64 { return t.Unix() / 3600 }

// noteClaimed remembers that a key is handed out.
func (s *Server) noteClaimed(ctx context.Context, tx *sqldb.Tx, user id.User, dev id.Device, k oneTimeKey) error {
	if _, err := tx.Exec(ctx, upsertClaimedSQL, deviceHash(user, dev), k.hash(), hours(s.Now())); err != nil {
		return fmt.Errorf("keyserver: noting a claimed key: %w", err)
	}
	return nil
}

// dropClaimed takes out again which of the keys that a transaction has just stored were handed out before. It looks after they
// were stored, not before: storing a key waits for whoever is about to claim it, and only then is it seen here.
func dropClaimed(ctx context.Context, tx *sqldb.Tx, user id.User, dev id.Device, stored []oneTimeKey) error {
	byHash := make(map[int64]oneTimeKey, len(stored))
	for _, k := range stored {
		byHash[k.hash()] = k
	}
	claimed, err := whichClaimed(ctx, tx, user, dev, slices.Collect(maps.Keys(byHash)))
	if err != nil {
		return err
	}
	for _, h := range claimed {
		k := byHash[h]
		if _, err := tx.Exec(ctx, deleteOneTimeSQL, string(user), string(dev), k.algorithm, k.keyID); err != nil {
			return fmt.Errorf("keyserver: passing by a claimed key: %w", err)
		}
	}
	return nil
}

// whichClaimed gives those of a list of a device's keys that were handed out.
func whichClaimed(ctx context.Context, q sqldb.Querier, user id.User, dev id.Device, list []int64) (claimed []int64, err error) {
	err = sqldb.Chunk(list, func(part []int64) error {
		in, args := sqldb.InArgs([]any{deviceHash(user, dev)}, part)
		rows, err := q.Query(ctx, selectClaimedSQL+in, args...)
		if err != nil {
			return fmt.Errorf("keyserver: reading claimed keys: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var h int64
			if err := rows.Scan(&h); err != nil {
				return fmt.Errorf("keyserver: reading claimed keys: %w", err)
			}
			claimed = append(claimed, h)
		}
		return rows.Err()
	})
	return claimed, err
}

// deleteClaimed forgets claimed keys that had their time, and the oldest of devices that have too many.
func (s *Server) deleteClaimed(ctx context.Context) (removed int64, err error) {
	removed, err = upkeep.Delete(ctx, s.DB, deleteClaimedBeforeSQL, hours(s.Now().Add(-claimedFor)))
	if err != nil {
		return removed, err
	}
	var crowded []int64
	err = s.rows(ctx, claimedMuchSQL, []any{maxClaimed}, func(scan func(...any) error) error {
		var device int64
		err := scan(&device)
		crowded = append(crowded, device)
		return err
	})
	if err != nil {
		return removed, err
	}
	for _, device := range crowded {
		n, err := upkeep.Delete(ctx, s.DB, deleteTooMuchSQL, device, maxClaimed)
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}
