package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"weft/internal/fedclient/keyring"
	"weft/matrix/event"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const fed1, fed2 = "/_matrix/federation/v1", "/_matrix/federation/v2"

// collect is a Visit that remembers "list:event".
func collect(into *[]string) Visit {
	return func(list List, pdu json.RawMessage) error {
		*into = append(*into, string(list)+":"+string(pdu))
		return nil
	}
}

// TestCalls checks of each typed call what goes over the wire and what comes
// back.
func TestCalls(t *testing.T) {
	ctx := context.Background()
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	type call func(c *Client) (any, error)
	cases := []struct {
		name     string
		call     call
		method   string
		uri      string
		body     string
		unsigned bool
		response string
		want     any
	}{
		{"make_join", func(c *Client) (any, error) {
			return c.MakeJoin(ctx, "peer.example", "!r:peer.example", "@u:us.example", []event.RoomVersion{"1", "12"})
		}, "GET", fed1 + "/make_join/%21r:peer.example/@u:us.example?ver=1&ver=12", "", false,
			`{"room_version":"12","event":{"type":"m.room.member"}}`, &Template{"12", raw(`{"type":"m.room.member"}`)}},
		{"make_knock", func(c *Client) (any, error) {
			return c.MakeKnock(ctx, "peer.example", "!r", "@u:us.example", []event.RoomVersion{"7"})
		}, "GET", fed1 + "/make_knock/%21r/@u:us.example?ver=7", "", false,
			`{"room_version":"7","event":{}}`, &Template{"7", raw(`{}`)}},
		{"make_leave", func(c *Client) (any, error) { return c.MakeLeave(ctx, "peer.example", "!r", "@a/b?c%:us.example") },
			"GET", fed1 + "/make_leave/%21r/@a%2Fb%3Fc%25:us.example", "", false, `{"event":{}}`, &Template{"", raw(`{}`)}},
		{"send_leave", func(c *Client) (any, error) {
			return nil, c.SendLeave(ctx, "peer.example", "!r", "$e/x", raw(`{"b":1,"a":2}`))
		}, "PUT", fed2 + "/send_leave/%21r/$e%2Fx", `{"a":2,"b":1}`, false, `{}`, nil},
		{"send_knock", func(c *Client) (any, error) { return c.SendKnock(ctx, "peer.example", "!r", "$e", raw(`{}`)) },
			"PUT", fed1 + "/send_knock/%21r/$e", `{}`, false, `{"knock_room_state":[{"type":"m.room.create"}]}`, []json.RawMessage{raw(`{"type":"m.room.create"}`)}},
		{"invite", func(c *Client) (any, error) {
			return c.Invite(ctx, "peer.example", "!r", "$e", "12", raw(`{"t":1}`), []json.RawMessage{raw(`{"s":1}`)})
		}, "PUT", fed2 + "/invite/%21r/$e", `{"event":{"t":1},"invite_room_state":[{"s":1}],"room_version":"12"}`, false,
			`{"event":{"signed":true}}`, raw(`{"signed":true}`)},
		{"exchange_third_party_invite", func(c *Client) (any, error) {
			return nil, c.ExchangeThirdPartyInvite(ctx, "peer.example", "!r", raw(`{"type":"m.room.member"}`))
		}, "PUT", fed1 + "/exchange_third_party_invite/%21r", `{"type":"m.room.member"}`, false, `{}`, nil},
		{"event", func(c *Client) (any, error) { return c.GetEvent(ctx, "peer.example", "$e") },
			"GET", fed1 + "/event/$e", "", false, `{"origin":"peer.example","pdus":[{"x":1}]}`, raw(`{"x":1}`)},
		{"state", func(c *Client) (any, error) {
			var got []string
			err := c.GetState(ctx, "peer.example", "!r", "$e", collect(&got))
			return got, err
		}, "GET", fed1 + "/state/%21r?event_id=%24e", "", false, `{"auth_chain":[{"c":1}],"x":[[{}]],"pdus":[{"a":1},{"b":1}]}`,
			[]string{`auth_chain:{"c":1}`, `state:{"a":1}`, `state:{"b":1}`}},
		{"event_auth", func(c *Client) (any, error) {
			var got []string
			err := c.GetEventAuth(ctx, "peer.example", "!r", "$e", collect(&got))
			return got, err
		}, "GET", fed1 + "/event_auth/%21r/$e", "", false, `{"auth_chain":[{"a":1}]}`, []string{`auth_chain:{"a":1}`}},
		{"state_ids", func(c *Client) (any, error) { return c.GetStateIDs(ctx, "peer.example", "!r", "$e") },
			"GET", fed1 + "/state_ids/%21r?event_id=%24e", "", false, `{"pdu_ids":["$a","$b"],"auth_chain_ids":["$c"]}`,
			&StateIDs{[]id.Event{"$a", "$b"}, []id.Event{"$c"}}},
		{"backfill", func(c *Client) (any, error) {
			return c.Backfill(ctx, "peer.example", "!r", []id.Event{"$a", "$b"}, 2)
		}, "GET", fed1 + "/backfill/%21r?limit=2&v=%24a&v=%24b", "", false, `{"pdus":[{"a":1},{"b":1},{"too many":1}]}`,
			[]json.RawMessage{raw(`{"a":1}`), raw(`{"b":1}`)}},
		{"get_missing_events", func(c *Client) (any, error) {
			return c.GetMissingEvents(ctx, "peer.example", "!r", MissingEvents{Latest: []id.Event{"$b"}, Limit: 10000, MinDepth: 3})
		}, "POST", fed1 + "/get_missing_events/%21r", `{"earliest_events":[],"latest_events":["$b"],"limit":500,"min_depth":3}`, false,
			`{"events":[{"a":1}]}`, []json.RawMessage{raw(`{"a":1}`)}},
		{"timestamp_to_event", func(c *Client) (any, error) {
			return c.GetEventByTimestamp(ctx, "peer.example", "!r", 1234, true)
		}, "GET", fed1 + "/timestamp_to_event/%21r?dir=b&ts=1234", "", false, `{"event_id":"$e","origin_server_ts":1200}`, &EventAt{"$e", 1200}},
		{"send", func(c *Client) (any, error) {
			return c.SendTransaction(ctx, "peer.example", Transaction{ID: "t1", OriginServerTS: 5, PDUs: []json.RawMessage{raw(`{"p":1}`)}, EDUs: []json.RawMessage{raw(`{"e":1}`)}})
		}, "PUT", fed1 + "/send/t1", `{"edus":[{"e":1}],"origin":"us.example","origin_server_ts":5,"pdus":[{"p":1}]}`, false,
			`{"pdus":{"$good":{},"$bad":{"error":"no"}}}`, map[id.Event]string{"$bad": "no"}},
		{"send nothing", func(c *Client) (any, error) {
			return c.SendTransaction(ctx, "peer.example", Transaction{ID: "t2"})
		}, "PUT", fed1 + "/send/t2", `{"origin":"us.example","origin_server_ts":0,"pdus":[]}`, false, `{}`, map[id.Event]string{}},
		{"query profile", func(c *Client) (any, error) { return c.QueryProfile(ctx, "@u:peer.example", "") },
			"GET", fed1 + "/query/profile?user_id=%40u%3Apeer.example", "", false, `{"displayname":"U"}`, map[string]json.RawMessage{"displayname": raw(`"U"`)}},
		{"query profile field", func(c *Client) (any, error) { return c.QueryProfile(ctx, "@u:peer.example", "avatar_url") },
			"GET", fed1 + "/query/profile?field=avatar_url&user_id=%40u%3Apeer.example", "", false, `{}`, map[string]json.RawMessage{}},
		{"query directory", func(c *Client) (any, error) { return c.QueryDirectory(ctx, "#a:peer.example") },
			"GET", fed1 + "/query/directory?room_alias=%23a%3Apeer.example", "", false, `{"room_id":"!r:x","servers":["a.example","no name"]}`,
			&RoomDirectory{"!r:x", []id.Server{"a.example"}}},
		{"publicRooms", func(c *Client) (any, error) {
			return c.GetPublicRooms(ctx, "peer.example", PublicRoomsQuery{Limit: 5, Since: "s&t", IncludeAllNetworks: true})
		}, "GET", fed1 + "/publicRooms?include_all_networks=true&limit=5&since=s%26t", "", false, `{"chunk":[]}`, raw(`{"chunk":[]}`)},
		{"publicRooms with a network", func(c *Client) (any, error) {
			return c.GetPublicRooms(ctx, "peer.example", PublicRoomsQuery{ThirdPartyInstanceID: "irc"})
		}, "GET", fed1 + "/publicRooms?third_party_instance_id=irc", "", false, `{"chunk":[]}`, raw(`{"chunk":[]}`)},
		{"publicRooms with a filter", func(c *Client) (any, error) {
			return c.QueryPublicRooms(ctx, "peer.example", PublicRoomsQuery{Filter: raw(`{"room_types":[null]}`)})
		}, "POST", fed1 + "/publicRooms", `{"filter":{"room_types":[null]}}`, false, `{"chunk":[]}`, raw(`{"chunk":[]}`)},
		{"hierarchy", func(c *Client) (any, error) { return c.GetHierarchy(ctx, "peer.example", "!r") },
			"GET", fed1 + "/hierarchy/%21r", "", false, `{"room":{}}`, raw(`{"room":{}}`)},
		{"version", func(c *Client) (any, error) { return c.GetVersion(ctx, "peer.example") },
			"GET", fed1 + "/version", "", true, `{"server":{"name":"X","version":"1"}}`, Version{"X", "1"}},
		{"openid", func(c *Client) (any, error) { return c.ExchangeOpenIDToken(ctx, "peer.example", "to ken") },
			"GET", fed1 + "/openid/userinfo?access_token=to+ken", "", true, `{"sub":"@u:peer.example"}`, id.User("@u:peer.example")},
		{"policy sign", func(c *Client) (any, error) { return c.PolicySign(ctx, "peer.example", raw(`{"x":1}`)) },
			"POST", "/_matrix/policy/v1/sign", `{"x":1}`, false, `{"peer.example":{"ed25519:policy_server":"sig"}}`,
			map[id.Server]map[id.KeyID]string{"peer.example": {"ed25519:policy_server": "sig"}}},
		{"user devices", func(c *Client) (any, error) { return c.GetUserDevices(ctx, "@u:peer.example") },
			"GET", fed1 + "/user/devices/@u:peer.example", "", false,
			`{"user_id":"@u:peer.example","stream_id":5,"devices":[{"device_id":"D","device_display_name":"N","keys":{"k":1}}],"master_key":{"m":1}}`,
			&UserDevices{"@u:peer.example", 5, []UserDevice{{"D", "N", raw(`{"k":1}`)}}, raw(`{"m":1}`), nil}},
		{"keys query", func(c *Client) (any, error) {
			return c.QueryKeys(ctx, "peer.example", map[id.User][]id.Device{"@u:peer.example": nil, "@v:peer.example": {"D"}})
		}, "POST", fed1 + "/user/keys/query", `{"device_keys":{"@u:peer.example":[],"@v:peer.example":["D"]}}`, false,
			`{"device_keys":{"@u:peer.example":{"D":{}},"@other:peer.example":{"E":{}}},"master_keys":{"@other:peer.example":{}}}`,
			&DeviceKeys{map[id.User]map[id.Device]json.RawMessage{"@u:peer.example": {"D": raw(`{}`)}}, map[id.User]json.RawMessage{}, nil}},
		{"keys claim", func(c *Client) (any, error) {
			return c.ClaimKeys(ctx, "peer.example", map[id.User]map[id.Device]string{"@u:peer.example": {"D": "signed_curve25519"}})
		}, "POST", fed1 + "/user/keys/claim", `{"one_time_keys":{"@u:peer.example":{"D":"signed_curve25519"}}}`, false,
			`{"one_time_keys":{"@u:peer.example":{"D":{"signed_curve25519:A":{}}},"@x:peer.example":{}}}`,
			map[id.User]map[id.Device]json.RawMessage{"@u:peer.example": {"D": raw(`{"signed_curve25519:A":{}}`)}}},
		{"server keys", func(c *Client) (any, error) { return c.ServerKeys(ctx, "peer.example") },
			"GET", "/_matrix/key/v2/server", "", true, `{"server_name":"peer.example"}`, []byte(`{"server_name":"peer.example"}`)},
		{"notary", func(c *Client) (any, error) {
			return c.NotaryKeys(ctx, "peer.example", keyring.Want{"a.example": {"ed25519:1": 77, "ed25519:2": 0}, "b.example": nil})
		}, "POST", "/_matrix/key/v2/query", `{"server_keys":{"a.example":{"ed25519:1":{"minimum_valid_until_ts":77},"ed25519:2":{}},"b.example":{}}}`, true,
			`{"server_keys":[{"a":1}]}`, []json.RawMessage{raw(`{"a":1}`)}},
		{"notary by GET", func(c *Client) (any, error) { return c.NotaryKeysOf(ctx, "peer.example", "[::1]:99", 77) },
			"GET", "/_matrix/key/v2/query/%5B::1%5D:99?minimum_valid_until_ts=77", "", true, `{"server_keys":[]}`, []json.RawMessage{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, nil)
			l.peer(map[string]http.HandlerFunc{c.method + " " + c.uri: reply(200, c.response)})
			got, err := c.call(l.client)
			if err != nil {
				t.Fatalf("%v; the server saw %+v", err, l.last())
			}
			if got != nil && c.want != nil && !reflect.DeepEqual(got, c.want) {
				t.Fatalf("got  %s\nwant %s", show(got), show(c.want))
			}
			s := l.last()
			if s.body != c.body {
				t.Fatalf("body %q, want %q", s.body, c.body)
			}
			if c.unsigned {
				if s.auth != "" {
					t.Fatalf("signed: %q", s.auth)
				}
				return
			}
			l.checkSigned(c.method, "peer.example")
		})
		t.Run(c.name+" refused", func(t *testing.T) {
			l := newLab(t, nil)
			l.peer(map[string]http.HandlerFunc{c.method + " " + c.uri: reply(403, `{"errcode":"M_FORBIDDEN","error":"x"}`)})
			if _, err := c.call(l.client); !errors.Is(err, merr.ErrForbidden) {
				t.Fatalf("got %v", err)
			}
		})
		if c.name == "send_leave" || c.name == "exchange_third_party_invite" {
			continue // their answers hold nothing that is read
		}
		t.Run(c.name+" answered with nonsense", func(t *testing.T) {
			for _, body := range []string{``, `[`, `"x"`, `[[[[`, `{"pdus":3,"auth_chain":[1],"events":{},"event":7}`} {
				if c.name == "server keys" || strings.HasPrefix(body, "{") && !strings.Contains("make_join make_knock make_leave invite event state event_auth state_ids backfill get_missing_events send", c.name) {
					continue
				}
				l := newLab(t, nil)
				l.peer(map[string]http.HandlerFunc{c.method + " " + c.uri: reply(200, body)})
				got, err := c.call(l.client)
				if err == nil {
					t.Fatalf("%q was taken for %s", body, show(got))
				}
				if e := merr.From(err); e.Status != 502 {
					t.Fatalf("%q gave %d: %v", body, e.Status, err)
				}
			}
		})
	}
}

func show(v any) string {
	out, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%T %s", v, out)
}

func TestFallBackToVersion1(t *testing.T) {
	ctx := context.Background()
	unknown := map[string]http.HandlerFunc{
		"standard":  reply(404, `{"errcode":"M_UNRECOGNIZED","error":"x"}`),
		"method":    reply(405, `{"errcode":"M_UNRECOGNIZED","error":"x"}`),
		"old style": reply(400, `{"errcode":"M_UNRECOGNIZED","error":"x"}`),
		"plain":     reply(404, `404 page not found`),
	}
	type call func(c *Client) (any, error)
	cases := []struct {
		name, path, body, response, want string
		call                             call
	}{
		{"invite", "/invite/%21r/$e", `{"t":1,"unsigned":{"age":5,"invite_room_state":[{"s":1}]}}`, `[200,{"event":{"ok":1}}]`, `{"ok":1}`, func(c *Client) (any, error) {
			return c.Invite(ctx, "peer.example", "!r", "$e", "2", json.RawMessage(`{"t":1,"unsigned":{"age":5}}`), []json.RawMessage{json.RawMessage(`{"s":1}`)})
		}},
		{"send_leave", "/send_leave/%21r/$e", `{"t":1}`, `[200,{}]`, `null`, func(c *Client) (any, error) {
			return nil, c.SendLeave(ctx, "peer.example", "!r", "$e", json.RawMessage(`{"t":1}`))
		}},
		{"send_join", "/send_join/%21r/$e", `{"t":1}`, `[200,{"state":[{"a":1}],"auth_chain":[],"origin":"x"}]`, `["state:{\"a\":1}"]`, func(c *Client) (any, error) {
			var got []string
			_, err := c.SendJoin(ctx, "peer.example", "!r", "$e", json.RawMessage(`{"t":1}`), false, collect(&got))
			return got, err
		}},
	}
	for _, c := range cases {
		for name, h := range unknown {
			t.Run(c.name+" "+name, func(t *testing.T) {
				l := newLab(t, nil)
				l.peer(map[string]http.HandlerFunc{"PUT " + fed2 + c.path: h, "PUT " + fed1 + c.path: reply(200, c.response)})
				got, err := c.call(l.client)
				if err != nil {
					t.Fatal(err)
				}
				if out, _ := json.Marshal(got); string(out) != c.want {
					t.Fatalf("got %s, want %s", out, c.want)
				}
				if s := l.last(); s.body != c.body {
					t.Fatalf("body %s, want %s", s.body, c.body)
				}
				l.checkSigned("PUT", "peer.example")
			})
		}
		t.Run(c.name+" unknown room", func(t *testing.T) {
			l := newLab(t, nil)
			l.peer(map[string]http.HandlerFunc{"PUT " + fed2 + c.path: reply(404, `{"errcode":"M_NOT_FOUND","error":"x"}`), "PUT " + fed1 + c.path: reply(200, c.response)})
			if _, err := c.call(l.client); !errors.Is(err, merr.ErrNotFound) {
				t.Fatalf("got %v", err)
			}
		})
	}
	t.Run("no invite v1 for rooms that it does not know", func(t *testing.T) {
		l := newLab(t, nil)
		l.peer(map[string]http.HandlerFunc{"PUT " + fed1 + "/invite/%21r/$e": reply(200, `[200,{"event":{}}]`)})
		if _, err := l.client.Invite(ctx, "peer.example", "!r", "$e", "3", json.RawMessage(`{}`), nil); !errors.Is(err, merr.ErrUnrecognized) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestAnswersAboutOthersAreRefused(t *testing.T) {
	ctx := context.Background()
	l := newLab(t, nil)
	l.peer(map[string]http.HandlerFunc{
		"GET " + fed1 + "/openid/userinfo?access_token=x":                 reply(200, `{"sub":"@u:other.example"}`),
		"GET " + fed1 + "/user/devices/@u:peer.example":                   reply(200, `{"user_id":"@v:peer.example","devices":[]}`),
		"GET " + fed1 + "/query/directory?room_alias=%23a%3Apeer.example": reply(200, `{"room_id":"nonsense","servers":[]}`),
		"GET " + fed1 + "/timestamp_to_event/%21r?dir=f&ts=1":             reply(200, `{"event_id":"nonsense"}`),
		"GET " + fed1 + "/event/$e":                                       reply(200, `{"pdus":[]}`),
		"PUT " + fed2 + "/send_join/%21r/$e":                              reply(200, `{"state":[],"auth_chain":[],"members_omitted":true}`),
		"GET " + fed1 + "/state_ids/%21r?event_id=%24e":                   reply(200, `{"pdu_ids":["nonsense"],"auth_chain_ids":[]}`),
		"GET " + fed1 + "/publicRooms":                                    reply(200, `[]`),
		"GET " + fed1 + "/make_join/%21r/@u:us.example":                   reply(200, `{"room_version":"1"}`),
	})
	none := func(List, json.RawMessage) error { return nil }
	for name, call := range map[string]func() (any, error){
		"openid":    func() (any, error) { return l.client.ExchangeOpenIDToken(ctx, "peer.example", "x") },
		"devices":   func() (any, error) { return l.client.GetUserDevices(ctx, "@u:peer.example") },
		"directory": func() (any, error) { return l.client.QueryDirectory(ctx, "#a:peer.example") },
		"timestamp": func() (any, error) { return l.client.GetEventByTimestamp(ctx, "peer.example", "!r", 1, false) },
		"event":     func() (any, error) { return l.client.GetEvent(ctx, "peer.example", "$e") },
		"send_join": func() (any, error) {
			return l.client.SendJoin(ctx, "peer.example", "!r", "$e", json.RawMessage(`{}`), false, none)
		},
		"state_ids": func() (any, error) { return l.client.GetStateIDs(ctx, "peer.example", "!r", "$e") },
		"rooms":     func() (any, error) { return l.client.GetPublicRooms(ctx, "peer.example", PublicRoomsQuery{}) },
		"make_join": func() (any, error) { return l.client.MakeJoin(ctx, "peer.example", "!r", "@u:us.example", nil) },
	} {
		if got, err := call(); err == nil || merr.From(err).Status != 502 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := l.client.SendTransaction(ctx, "peer.example", Transaction{ID: "t", PDUs: make([]json.RawMessage, MaxPDUs+1)}); err == nil {
		t.Error("a transaction of too many PDUs was sent")
	}
}
