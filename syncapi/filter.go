package syncapi

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"weft/internal/eventstore"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// filter is a filter as clients define it. A nil list does not filter; an empty one
// lets nothing pass.
//
// spec: client-server §6.4.2 (Filter)
type filter struct {
	AccountData eventFilter `json:"account_data"`
	Presence    eventFilter `json:"presence"`
	Room        roomFilter  `json:"room"`
	EventFields []string    `json:"event_fields"`
	EventFormat string      `json:"event_format"`
}

type eventFilter struct {
	Limit      *int64   `json:"limit"`
	Types      []string `json:"types"`
	NotTypes   []string `json:"not_types"`
	Senders    []string `json:"senders"`
	NotSenders []string `json:"not_senders"`
}

type roomFilter struct {
	Rooms        []string        `json:"rooms"`
	NotRooms     []string        `json:"not_rooms"`
	IncludeLeave bool            `json:"include_leave"`
	Timeline     roomEventFilter `json:"timeline"`
	State        roomEventFilter `json:"state"`
	Ephemeral    roomEventFilter `json:"ephemeral"`
	AccountData  roomEventFilter `json:"account_data"`
}

type roomEventFilter struct {
	eventFilter
	Rooms            []string `json:"rooms"`
	NotRooms         []string `json:"not_rooms"`
	ContainsURL      *bool    `json:"contains_url"`
	LazyLoadMembers  bool     `json:"lazy_load_members"`
	IncludeRedundant bool     `json:"include_redundant_members"`
	UnreadThreads    bool     `json:"unread_thread_notifications"`
	RelTypes         []string `json:"related_by_rel_types"`
	RelSenders       []string `json:"related_by_senders"`
}

const (
	defaultTimeline = 10
	maxTimeline     = 100
	maxFilterList   = 1000
	maxFilterBytes  = 64 << 10
)

// noFilter lets everything pass. No filter is changed after it was read.
var noFilter = new(filter)

// parseFilter reads a filter and checks it.
func parseFilter(raw []byte) (*filter, error) {
	if len(raw) > maxFilterBytes {
		return nil, merr.TooLarge("a filter may have %d bytes", maxFilterBytes)
	}
	if !gjson.ValidBytes(raw) {
		return nil, merr.NotJSON("the filter is not JSON")
	}
	f := new(filter)
	if err := json.Unmarshal(raw, f); err != nil {
		return nil, merr.BadJSON("filter: %v", err)
	}
	return f, f.check()
}

// parseRoomEventFilter reads the filter parameter of /messages and /context.
func parseRoomEventFilter(raw string) (*roomEventFilter, error) {
	f := new(roomEventFilter)
	if raw == "" {
		return f, nil
	}
	if len(raw) > maxFilterBytes || !gjson.Valid(raw) {
		return nil, merr.InvalidParam("the filter is not JSON")
	}
	if err := json.Unmarshal([]byte(raw), f); err != nil {
		return nil, merr.InvalidParam("filter: %v", err)
	}
	return f, f.check("filter")
}

func (f *filter) check() error {
	if f.EventFormat != "" && f.EventFormat != "client" && f.EventFormat != "federation" {
		return merr.InvalidParam("event_format is neither client nor federation")
	}
	if len(f.EventFields) > maxFilterList {
		return merr.InvalidParam("event_fields has more than %d entries", maxFilterList)
	}
	for name, e := range map[string]*eventFilter{"account_data": &f.AccountData, "presence": &f.Presence} {
		if err := e.check(name); err != nil {
			return err
		}
	}
	r := &f.Room
	if err := checkRooms("room", r.Rooms, r.NotRooms); err != nil {
		return err
	}
	for name, e := range map[string]*roomEventFilter{
		"room.timeline": &r.Timeline, "room.state": &r.State, "room.ephemeral": &r.Ephemeral, "room.account_data": &r.AccountData,
	} {
		if err := e.check(name); err != nil {
			return err
		}
	}
	return nil
}

func (f *roomEventFilter) check(name string) error {
	if err := f.eventFilter.check(name); err != nil {
		return err
	}
	return checkRooms(name, f.Rooms, f.NotRooms)
}

func (f *eventFilter) check(name string) error {
	if f.Limit != nil && *f.Limit < 0 {
		return merr.InvalidParam("%s.limit is negative", name)
	}
	for _, list := range [][]string{f.Types, f.NotTypes, f.Senders, f.NotSenders} {
		if len(list) > maxFilterList {
			return merr.InvalidParam("%s has a list of more than %d entries", name, maxFilterList)
		}
	}
	for _, list := range [][]string{f.Senders, f.NotSenders} {
		for _, u := range list {
			if _, err := id.ParseUser(u); err != nil {
				return merr.InvalidParam("%s: %q is not a user ID", name, u)
			}
		}
	}
	return nil
}

func checkRooms(name string, lists ...[]string) error {
	for _, list := range lists {
		if len(list) > maxFilterList {
			return merr.InvalidParam("%s has a list of more than %d rooms", name, maxFilterList)
		}
		for _, r := range list {
			if _, err := id.ParseRoom(r); err != nil {
				return merr.InvalidParam("%s: %q is not a room ID", name, r)
			}
		}
	}
	return nil
}

// limit gives the limit, or def where there is none, at most highest.
func (f *eventFilter) limit(def, highest int) int {
	if f.Limit == nil {
		return def
	}
	return int(min(*f.Limit, int64(highest)))
}

// allowsType applies types and not_types; * in them stands for anything.
func (f *eventFilter) allowsType(typ string) bool {
	match := func(pattern string) bool { return wildcard(pattern, typ) }
	if slices.ContainsFunc(f.NotTypes, match) {
		return false
	}
	return f.Types == nil || slices.ContainsFunc(f.Types, match)
}

func (f *eventFilter) allowsSender(u string) bool {
	return !slices.Contains(f.NotSenders, u) && (f.Senders == nil || slices.Contains(f.Senders, u))
}

// wildcard compares a type with a pattern in which * stands for any characters.
func wildcard(pattern, s string) bool {
	first, rest, found := strings.Cut(pattern, "*")
	if !found {
		return pattern == s
	}
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for {
		part, more, again := strings.Cut(rest, "*")
		if !again {
			return strings.HasSuffix(s, rest)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}

func allowsRoom(rooms, notRooms []string, room id.Room) bool {
	return !slices.Contains(notRooms, string(room)) && (rooms == nil || slices.Contains(rooms, string(room)))
}

// allowsRoom applies rooms and not_rooms.
func (f *roomEventFilter) allowsRoom(room id.Room) bool { return allowsRoom(f.Rooms, f.NotRooms, room) }

// allowsRoom applies rooms and not_rooms.
func (f *roomFilter) allowsRoom(room id.Room) bool { return allowsRoom(f.Rooms, f.NotRooms, room) }

// allows applies all that the event itself decides; relations are not among it.
func (f *roomEventFilter) allows(e *eventstore.Event) bool {
	if !f.allowsType(e.Type) || !f.allowsSender(string(e.Sender)) || !f.allowsRoom(e.RoomID) {
		return false
	}
	return f.ContainsURL == nil || *f.ContainsURL == (gjson.GetBytes(e.Content(), "url").Type == gjson.String)
}

// plain tells that every event passes.
func (f *roomEventFilter) plain() bool {
	return f.Types == nil && f.NotTypes == nil && f.Senders == nil && f.NotSenders == nil && f.Rooms == nil && f.NotRooms == nil &&
		f.ContainsURL == nil && f.RelTypes == nil && f.RelSenders == nil
}

// relational tells that relations decide too.
func (f *roomEventFilter) relational() bool { return f.RelTypes != nil || f.RelSenders != nil }
