package event

import (
	"strconv"

	"weft/matrix/merr"
)

// RoomVersion names a room version: "1" to "12".
//
// spec: rooms §3 (Room version grammar)
type RoomVersion string

// DefaultVersion is the version of a new room when nobody asks for another.
//
// spec: rooms §2 ("Servers SHOULD use room version 12 as the default")
const DefaultVersion RoomVersion = "12"

// EventIDFormat says what an event ID is.
type EventIDFormat int

// The formats of event IDs.
const (
	// EventIDInBody is "$opaque:server", carried in the event (versions 1, 2).
	EventIDInBody EventIDFormat = iota
	// EventIDHash is "$" and the reference hash in standard Base64 (version 3).
	EventIDHash
	// EventIDURLSafeHash is "$" and the reference hash in URL-safe Base64 (version 4 on).
	EventIDURLSafeHash
)

// EventFormat says how an event names its parents.
type EventFormat int

// The formats of prev_events and auth_events.
const (
	// FormatPairs is a list of [event ID, {"sha256": reference hash}] (versions 1, 2).
	FormatPairs EventFormat = iota
	// FormatIDs is a list of event IDs (version 3 on).
	FormatIDs
)

// StateRes names a state resolution algorithm.
type StateRes int

// The state resolution algorithms.
const (
	// StateResV1 is the algorithm of version 1.
	StateResV1 StateRes = iota
	// StateResV2 is the algorithm of versions 2 to 11.
	StateResV2
	// StateResV21 is the algorithm of version 12: it starts from an empty map and
	// adds the conflicted state subgraph.
	StateResV21
)

// Rules is what a room version says. There is one value for each version; it is
// shared and must not be changed.
type Rules struct {
	// Version is the version that the rules belong to.
	Version RoomVersion

	// EventIDFormat says what an event ID is.
	EventIDFormat EventIDFormat
	// EventFormat says how an event names its parents.
	EventFormat EventFormat
	// StateRes is the state resolution algorithm.
	StateRes StateRes
	// Redaction is what survives a redaction.
	Redaction Redaction

	// StrictCanonicalJSON: events must be canonical JSON; numbers are integers
	// between ±(2^53)-1. Without it floats and big numbers are kept as received.
	StrictCanonicalJSON bool
	// EnforceKeyValidity: a signing key counts only if it was valid at the event's
	// origin_server_ts.
	EnforceKeyValidity bool
	// MaxDepth is the highest depth of an event.
	MaxDepth int64

	// AuthorisesAliases: m.room.aliases has an authorisation rule of its own.
	AuthorisesAliases bool
	// AuthorisesRedactions: m.room.redaction has an authorisation rule of its own
	// (rule 11). Without it redactions are checked when they are applied.
	AuthorisesRedactions bool
	// ChecksNotificationLevels: the rules about changes of power levels also look
	// at the notifications property.
	ChecksNotificationLevels bool
	// Knock: users may knock (join rule and membership "knock").
	Knock bool
	// RestrictedJoin: the join rule "restricted" exists.
	RestrictedJoin bool
	// KnockRestricted: the join rule "knock_restricted" exists.
	KnockRestricted bool
	// IntegerPowerLevels: power levels must be integers. Without it strings that
	// hold integers are accepted.
	IntegerPowerLevels bool
	// FloatPowerLevels: power levels may be floats, which are truncated.
	FloatPowerLevels bool
	// CreatorInContent: the creator of a room is content.creator of the create
	// event. Without it the creator is the create event's sender.
	CreatorInContent bool
	// RedactsInContent: the target of a redaction is content.redacts. Without it
	// it is the top-level redacts.
	RedactsInContent bool
	// RoomIDIsCreateHash: the room ID is the create event's ID with "!" in place of
	// "$"; the create event has no room_id and is never among auth_events.
	RoomIDIsCreateHash bool
	// CreatorsPrivileged: creators (also content.additional_creators) have infinite
	// power and are not named in power levels.
	CreatorsPrivileged bool

	// KeepsWideFields: a type or state_key of more than 255 bytes, but not more than 255
	// code points, makes an event that is rejected rather than dropped. To drop it would cut
	// off all that comes after it in the graph. See Event.CheckFieldSize.
	KeepsWideFields bool

	// redactionKeeps is Redaction.TopLevel as a set.
	redactionKeeps fieldSet
	// stripped is what is taken out of an event on arrival.
	stripped fieldSet
}

// Limits of integers by room version.
const (
	maxInt64 = 1<<63 - 1
	maxInt53 = 1<<53 - 1
)

// changes holds, for each version in turn, what it changed.
//
// spec: rooms/v1 … rooms/v12
func changes() []func(*Rules) {
	return []func(*Rules){
		func(r *Rules) { // 1
			r.MaxDepth = maxInt64
			r.KeepsWideFields = true
			r.AuthorisesAliases = true
			r.AuthorisesRedactions = true
			r.FloatPowerLevels = true
			r.CreatorInContent = true
			r.Redaction = redactionV1()
		},
		func(r *Rules) { // 2
			r.StateRes = StateResV2
		},
		func(r *Rules) { // 3
			r.EventFormat = FormatIDs
			r.EventIDFormat = EventIDHash
			r.AuthorisesRedactions = false
		},
		func(r *Rules) { // 4
			r.EventIDFormat = EventIDURLSafeHash
		},
		func(r *Rules) { // 5
			r.EnforceKeyValidity = true
		},
		func(r *Rules) { // 6
			r.StrictCanonicalJSON = true
			r.MaxDepth = maxInt53
			r.AuthorisesAliases = false
			r.ChecksNotificationLevels = true
			r.FloatPowerLevels = false
			r.Redaction = r.Redaction.without("m.room.aliases")
		},
		func(r *Rules) { // 7
			r.Knock = true
		},
		func(r *Rules) { // 8
			r.RestrictedJoin = true
			r.Redaction = r.Redaction.keeping("m.room.join_rules", "allow")
		},
		func(r *Rules) { // 9
			r.Redaction = r.Redaction.keeping("m.room.member", "join_authorised_via_users_server")
		},
		func(r *Rules) { // 10
			r.IntegerPowerLevels = true
			r.KnockRestricted = true
		},
		func(r *Rules) { // 11
			r.CreatorInContent = false
			r.RedactsInContent = true
			r.KeepsWideFields = false
			r.Redaction = r.Redaction.
				withoutTopLevel("origin", "membership", "prev_state").
				keepingAll("m.room.create").
				keeping("m.room.power_levels", "invite").
				keeping("m.room.redaction", "redacts").
				keepingNested("m.room.member", "third_party_invite", "signed")
		},
		func(r *Rules) { // 12
			r.StateRes = StateResV21
			r.RoomIDIsCreateHash = true
			r.CreatorsPrivileged = true
		},
	}
}

// versions is the table of all versions; it is never written again.
var versions = buildVersions()

func buildVersions() []*Rules {
	var rows []*Rules
	var current Rules
	for i, change := range changes() {
		change(&current)
		row := current
		row.Version = RoomVersion(strconv.Itoa(i + 1))
		for _, key := range row.Redaction.TopLevel {
			row.redactionKeeps |= 1 << fieldOf([]byte(key))
		}
		row.stripped = strippedFields
		if row.EventIDFormat != EventIDInBody {
			// spec: rooms/v3 (Event format): "the event_id field is no longer included"
			row.stripped |= 1 << fieldEventID
		}
		rows = append(rows, &row)
	}
	return rows
}

// Version gives the rules of a room version. The error is
// M_UNSUPPORTED_ROOM_VERSION.
func Version(v RoomVersion) (*Rules, error) {
	for _, r := range versions {
		if r.Version == v {
			return r, nil
		}
	}
	return nil, merr.UnsupportedRoomVersion("the room version %q is not supported", string(v))
}

// Versions lists the supported room versions, oldest first.
func Versions() []RoomVersion {
	out := make([]RoomVersion, len(versions))
	for i, r := range versions {
		out[i] = r.Version
	}
	return out
}
