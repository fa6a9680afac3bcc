package write

import (
	"context"
	"fmt"
	"slices"

	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/internal/statetree"
	"weft/matrix/eventauth"
)

// Intern gives the numbers of event types and of state keys (or users), and stores
// those that are new. It must not be called inside a transaction.
func (w *Writer) Intern(ctx context.Context, types, stateKeys []string) (map[string]nid.Type, map[string]nid.StateKey, error) {
	typeNIDs, err := w.r.TypeNIDs(ctx, types)
	if err != nil {
		return nil, nil, err
	}
	keyNIDs, err := w.r.StateKeyNIDs(ctx, stateKeys)
	if err != nil {
		return nil, nil, err
	}
	newTypes, newKeys := unknown(types, typeNIDs), unknown(stateKeys, keyNIDs)
	if len(newTypes)+len(newKeys) == 0 {
		return typeNIDs, keyNIDs, nil
	}
	err = w.db.Update(ctx, func(tx *sqldb.Tx) error {
		if err := store(ctx, tx, "type", insertTypeSQL, insertTypeTail, newTypes); err != nil {
			return fmt.Errorf("eventstore: interning event types: %w", err)
		}
		if err := store(ctx, tx, "state_key", insertKeySQL, insertKeyTail, newKeys); err != nil {
			return fmt.Errorf("eventstore: interning state keys: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	// Another node may have stored some of them first: what is stored counts.
	if typeNIDs, err = w.r.TypeNIDs(ctx, types); err != nil {
		return nil, nil, err
	}
	keyNIDs, err = w.r.StateKeyNIDs(ctx, stateKeys)
	return typeNIDs, keyNIDs, err
}

// InternKeys is Intern for places in the state.
func (w *Writer) InternKeys(ctx context.Context, keys []eventauth.Key) (map[eventauth.Key]statetree.Key, error) {
	types, stateKeys := make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		types[i], stateKeys[i] = k.Type, k.StateKey
	}
	if _, _, err := w.Intern(ctx, types, stateKeys); err != nil {
		return nil, err
	}
	return w.r.KeyMap(ctx, keys)
}

func unknown[N any](list []string, known map[string]N) []string {
	var out []string
	for _, s := range list {
		if _, ok := known[s]; !ok {
			out = append(out, s)
		}
	}
	slices.Sort(out) // one order for all writers: no deadlocks
	return slices.Compact(out)
}

const (
	insertTypeSQL  = `INSERT INTO event_types (type_nid, type) VALUES `
	insertTypeTail = ` ON CONFLICT (type) DO NOTHING`
	insertKeySQL   = `INSERT INTO state_keys (state_key_nid, state_key) VALUES `
	insertKeyTail  = ` ON CONFLICT (state_key) DO NOTHING`
)

func store(ctx context.Context, tx *sqldb.Tx, kind, head, tail string, list []string) error {
	if len(list) == 0 {
		return nil
	}
	first, err := reserve(ctx, tx, kind, int64(len(list)))
	if err != nil {
		return err
	}
	rows := make([][]any, len(list))
	for i, s := range list {
		rows[i] = []any{first + int64(i), []byte(s)}
	}
	return sqldb.Insert(ctx, tx, head, rows, tail)
}
