package nid

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Room stands for a room ID.
type Room int64

// Event stands for an event ID.
type Event int64

// Type stands for an event type.
type Type int64

// StateKey stands for a state key. Users are interned as state keys, so it also
// stands for a user ID.
type StateKey int64

// EmptyStateKey is the state key "".
const EmptyStateKey StateKey = 1

// The event types with fixed numbers. Their text is in FixedTypes.
const (
	TypeCreate            Type = 1
	TypePowerLevels       Type = 2
	TypeJoinRules         Type = 3
	TypeMember            Type = 4
	TypeHistoryVisibility Type = 5
	TypeName              Type = 6
	TypeTopic             Type = 7
	TypeAvatar            Type = 8
	TypeCanonicalAlias    Type = 9
	TypeGuestAccess       Type = 10
	TypeEncryption        Type = 11
	TypeTombstone         Type = 12
	TypeServerACL         Type = 13
	TypeThirdPartyInvite  Type = 14
	TypePinnedEvents      Type = 15
	TypeSpaceChild        Type = 16
	TypeSpaceParent       Type = 17
	TypeAliases           Type = 18
	TypeMessage           Type = 19
	TypeEncrypted         Type = 20
	TypeRedaction         Type = 21
	TypeReaction          Type = 22
	TypeSticker           Type = 23
	TypePolicy            Type = 24
)

// FirstFreeType is the first number that an event type outside FixedTypes gets.
// The gap leaves room for types that the protocol gains later.
const FirstFreeType Type = 256

// FirstFreeStateKey is the first number that a state key other than "" gets.
const FirstFreeStateKey StateKey = 2

// FixedTypes returns the text of the event types with fixed numbers.
func FixedTypes() map[Type]string {
	return map[Type]string{
		TypeCreate:            "m.room.create",
		TypePowerLevels:       "m.room.power_levels",
		TypeJoinRules:         "m.room.join_rules",
		TypeMember:            "m.room.member",
		TypeHistoryVisibility: "m.room.history_visibility",
		TypeName:              "m.room.name",
		TypeTopic:             "m.room.topic",
		TypeAvatar:            "m.room.avatar",
		TypeCanonicalAlias:    "m.room.canonical_alias",
		TypeGuestAccess:       "m.room.guest_access",
		TypeEncryption:        "m.room.encryption",
		TypeTombstone:         "m.room.tombstone",
		TypeServerACL:         "m.room.server_acl",
		TypeThirdPartyInvite:  "m.room.third_party_invite",
		TypePinnedEvents:      "m.room.pinned_events",
		TypeSpaceChild:        "m.space.child",
		TypeSpaceParent:       "m.space.parent",
		TypeAliases:           "m.room.aliases",
		TypeMessage:           "m.room.message",
		TypeEncrypted:         "m.room.encrypted",
		TypeRedaction:         "m.room.redaction",
		TypeReaction:          "m.reaction",
		TypeSticker:           "m.sticker",
		TypePolicy:            "m.room.policy",
	}
}

// errSet reports bytes that EncodeSet did not write.
var errSet = errors.New("nid: malformed set of event NIDs")

// maxEvent bounds an event NID, so that sums of deltas cannot overflow.
const maxEvent = 1 << 62

// EncodeSet writes a set of event NIDs as varint deltas in ascending order.
// Duplicates are written once; the empty set is the empty slice, never nil. The
// argument is left as it is.
func EncodeSet(events []Event) []byte {
	sorted := slices.Clone(events)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	out := make([]byte, 0, 3*len(sorted))
	last := Event(0)
	for _, e := range sorted {
		out = binary.AppendUvarint(out, uint64(e-last))
		last = e
	}
	return out
}

// DecodeSet reads what EncodeSet wrote, in ascending order. Anything else is an
// error.
func DecodeSet(b []byte) ([]Event, error) {
	if len(b) == 0 {
		return nil, nil
	}
	out := make([]Event, 0, len(b)/2+1)
	last := Event(0)
	for len(b) > 0 {
		d, n := binary.Uvarint(b)
		if n <= 0 || d == 0 || d > maxEvent-uint64(last) {
			return nil, errSet
		}
		b = b[n:]
		last += Event(d)
		out = append(out, last)
	}
	return out, nil
}
