package clientapi

import (
	"testing"
)

func TestSettingsFollowAnUpgrade(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		other, _ := e.register("bob")
		first := e.newRoom("@alice:test")
		second := e.newRoom("@alice:test")
		second.set("@alice:test", "m.room.create", "", obj{"room_version": "10", "predecessor": obj{"room_id": first.id}})
		rule := func(room string) string { return c3 + "/pushrules/global/room/" + room }
		tags := func(user string, room string) string { return c3 + "/user/" + user + "/rooms/" + room + "/tags" }
		e.ok("PUT", rule(string(first.id)), token, `{"actions":["dont_notify"]}`)
		e.ok("PUT", tags("@alice:test", string(first.id))+"/u.work", token, `{"order":0.5}`)
		e.want(404, "M_NOT_FOUND", "GET", rule(string(second.id)), token, nil)

		e.ok("POST", c3+"/join/"+string(second.id), token, nil)
		if got := e.ok("GET", rule(string(second.id)), token, nil); got.Get("actions.0").Str != "dont_notify" || !got.Get("enabled").Bool() {
			t.Errorf("the rule of the new room is %s", got.Raw)
		}
		e.ok("GET", rule(string(first.id)), token, nil)
		if got := e.ok("GET", tags("@alice:test", string(second.id)), token, nil); got.Get(`tags.u\.work.order`).Num != 0.5 {
			t.Errorf("the tags of the new room are %s", got.Raw)
		}

		e.ok("PUT", rule(string(second.id)), token, `{"actions":["notify"]}`)
		e.ok("PUT", tags("@alice:test", string(first.id))+"/u.play", token, `{}`)
		e.ok("POST", c3+"/join/"+string(second.id), token, nil)
		if got := e.ok("GET", rule(string(second.id)), token, nil); got.Get("actions.0").Str != "notify" {
			t.Errorf("what was set for the new room became %s", got.Raw)
		}
		if got := e.ok("GET", tags("@alice:test", string(second.id)), token, nil); got.Get(`tags.u\.play`).Exists() {
			t.Errorf("what was tagged in the new room became %s", got.Raw)
		}

		e.ok("POST", c3+"/join/"+string(second.id), other, nil)
		e.want(404, "M_NOT_FOUND", "GET", rule(string(second.id)), other, nil)
	})
}

func TestPushRulesOfAnUnknownKind(t *testing.T) {
	eachDB(t, nil, func(t *testing.T, e *env) {
		token, _ := e.register("alice")
		e.want(404, "M_NOT_FOUND", "GET", c3+"/pushrules/global/other/.m.rule.master", token, nil)
		e.want(404, "M_NOT_FOUND", "PUT", c3+"/pushrules/global/other/.m.rule.master/enabled", token, `{"enabled":false}`)
		e.want(400, "M_INVALID_PARAM", "PUT", c3+"/pushrules/global/other/mine", token, `{"actions":[]}`)
	})
}
