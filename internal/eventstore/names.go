package eventstore

import (
	"context"

	"weft/internal/nid"
	"weft/internal/statetree"
	"weft/matrix/eventauth"
	"weft/matrix/id"
)

const (
	typesSQL       = `SELECT type_nid, type FROM event_types WHERE type_nid IN `
	typeNIDsSQL    = `SELECT type_nid, type FROM event_types WHERE type IN `
	stateKeysSQL   = `SELECT state_key_nid, state_key FROM state_keys WHERE state_key_nid IN `
	stateKeyNIDSQL = `SELECT state_key_nid, state_key FROM state_keys WHERE state_key IN `
)

// Types gives the text of event types. Unknown numbers are missing in the result.
func (r *Reader) Types(ctx context.Context, types []nid.Type) (map[nid.Type]string, error) {
	return lookup(ctx, r, r.caches.types, r.immutable.types, types, func(t nid.Type) any { return int64(t) }, typesSQL,
		func(row func(...any) error) (n nid.Type, text string, err error) {
			var b []byte
			err = row(&n, &b)
			return n, string(b), err
		})
}

// TypeNIDs gives the numbers of event types. Types that no event ever had may be
// missing in the result.
func (r *Reader) TypeNIDs(ctx context.Context, types []string) (map[string]nid.Type, error) {
	return lookup(ctx, r, r.caches.typeNIDs, nil, types, func(s string) any { return []byte(s) }, typeNIDsSQL,
		func(row func(...any) error) (text string, n nid.Type, err error) {
			var b []byte
			err = row(&n, &b)
			return string(b), n, err
		})
}

// TypeNID gives the number of an event type, 0 when it has none.
func (r *Reader) TypeNID(ctx context.Context, typ string) (nid.Type, error) {
	m, err := r.TypeNIDs(ctx, []string{typ})
	return m[typ], err
}

// StateKeys gives the text of state keys. Unknown numbers are missing in the result.
func (r *Reader) StateKeys(ctx context.Context, keys []nid.StateKey) (map[nid.StateKey]string, error) {
	return lookup(ctx, r, r.caches.keys, r.immutable.keys, keys, func(k nid.StateKey) any { return int64(k) }, stateKeysSQL,
		func(row func(...any) error) (n nid.StateKey, text string, err error) {
			var b []byte
			err = row(&n, &b)
			return n, string(b), err
		})
}

// StateKeyNIDs gives the numbers of state keys and users. Those never used may be
// missing in the result.
func (r *Reader) StateKeyNIDs(ctx context.Context, keys []string) (map[string]nid.StateKey, error) {
	return lookup(ctx, r, r.caches.keyNIDs, nil, keys, func(s string) any { return []byte(s) }, stateKeyNIDSQL,
		func(row func(...any) error) (text string, n nid.StateKey, err error) {
			var b []byte
			err = row(&n, &b)
			return string(b), n, err
		})
}

// StateKeyNID gives the number of a state key or user, 0 when it has none.
func (r *Reader) StateKeyNID(ctx context.Context, key string) (nid.StateKey, error) {
	if key == "" {
		return nid.EmptyStateKey, nil
	}
	m, err := r.StateKeyNIDs(ctx, []string{key})
	return m[key], err
}

// UserNID gives the number of a user, 0 for one who was never mentioned in a room.
func (r *Reader) UserNID(ctx context.Context, user id.User) (nid.StateKey, error) {
	return r.StateKeyNID(ctx, string(user))
}

// Keys gives the places of state keys in a tree, in the same order. Keys whose
// type or state key has no number, which therefore no state holds, are left out; so are
// repetitions.
func (r *Reader) Keys(ctx context.Context, keys []eventauth.Key) ([]statetree.Key, error) {
	m, err := r.KeyMap(ctx, keys)
	if err != nil {
		return nil, err
	}
	out := make([]statetree.Key, 0, len(m))
	for _, k := range keys {
		if p, ok := m[k]; ok {
			out = append(out, p)
			delete(m, k)
		}
	}
	return out, nil
}

// KeyMap is Keys with the relation to the text kept.
func (r *Reader) KeyMap(ctx context.Context, keys []eventauth.Key) (map[eventauth.Key]statetree.Key, error) {
	types, texts := make([]string, 0, len(keys)), make([]string, 0, len(keys))
	for _, k := range keys {
		types, texts = append(types, k.Type), append(texts, k.StateKey)
	}
	typeNIDs, err := r.TypeNIDs(ctx, types)
	if err != nil {
		return nil, err
	}
	keyNIDs, err := r.StateKeyNIDs(ctx, texts)
	if err != nil {
		return nil, err
	}
	out := make(map[eventauth.Key]statetree.Key, len(keys))
	for _, k := range keys {
		t, s := typeNIDs[k.Type], keyNIDs[k.StateKey]
		if t != 0 && s != 0 {
			out[k] = statetree.Key{Type: t, StateKey: s}
		}
	}
	return out, nil
}

// KeyTexts is the reverse of KeyMap. Unknown numbers are missing in the result.
func (r *Reader) KeyTexts(ctx context.Context, keys []statetree.Key) (map[statetree.Key]eventauth.Key, error) {
	types, texts := make([]nid.Type, 0, len(keys)), make([]nid.StateKey, 0, len(keys))
	for _, k := range keys {
		types, texts = append(types, k.Type), append(texts, k.StateKey)
	}
	typeTexts, err := r.Types(ctx, types)
	if err != nil {
		return nil, err
	}
	keyTexts, err := r.StateKeys(ctx, texts)
	if err != nil {
		return nil, err
	}
	out := make(map[statetree.Key]eventauth.Key, len(keys))
	for _, k := range keys {
		t, okType := typeTexts[k.Type]
		s, okKey := keyTexts[k.StateKey]
		if okType && okKey {
			out[k] = eventauth.Key{Type: t, StateKey: s}
		}
	}
	return out, nil
}
