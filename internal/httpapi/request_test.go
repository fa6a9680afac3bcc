package httpapi

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"weft/matrix/merr"
)

func checkCode(t *testing.T, err error, code, words string) {
	t.Helper()
	var e *merr.Error
	switch {
	case code == "" && err != nil:
		t.Fatalf("unexpected error %v", err)
	case code == "":
	case !errors.As(err, &e) || e.Code != code:
		t.Fatalf("got %v, want %s", err, code)
	case !strings.Contains(e.Message, words):
		t.Errorf("message %q does not say %q", e.Message, words)
	}
}

func TestDecodeJSON(t *testing.T) {
	for _, c := range []struct{ name, body, code, words string }{
		{"object", `{"name":"x","nested":{"n":1}}`, "", ""},
		{"empty", "", "", ""},
		{"space", " \n", "", ""},
		{"unknown field", `{"other":1}`, "", ""},
		{"null field", `{"name":null}`, "", ""},
		{"wrong type", `{"name":5}`, "M_BAD_JSON", "field name must not be a JSON number"},
		{"wrong type deep", `{"nested":{"n":"x"}}`, "M_BAD_JSON", "field nested.n"},
		{"fraction for integer", `{"nested":{"n":1.5}}`, "M_BAD_JSON", "nested.n"},
		{"array", `[]`, "M_BAD_JSON", "object"},
		{"string", `"x"`, "M_BAD_JSON", "object"},
		{"null", `null`, "M_BAD_JSON", "object"},
		{"cut off", `{"name":`, "M_NOT_JSON", ""},
		{"trailing data", `{} {}`, "M_NOT_JSON", ""},
		{"no JSON", `name=x`, "M_NOT_JSON", ""},
		{"invalid UTF-8", "{\"name\":\"\xff\"}", "M_NOT_JSON", "UTF-8"},
		{"deep", strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 200), "M_BAD_JSON", "nested"},
		{"brackets in a string are not depth", `{"name":"` + strings.Repeat(`[\"{`, 200) + `"}`, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v struct {
				Name   string `json:"name"`
				Nested struct {
					N int `json:"n"`
				} `json:"nested"`
			}
			checkCode(t, (&Request{Body: []byte(c.body)}).DecodeJSON(&v), c.code, c.words)
		})
	}
}

func FuzzDecodeJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":"\u0000"}]}`, `[`, `{"a":1}x`, "\xff", `{"a":"\ud800"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var v map[string]any
		err := (&Request{Body: body}).DecodeJSON(&v)
		var e *merr.Error
		if err != nil && (!errors.As(err, &e) || e.Status != 400) {
			t.Fatalf("%q: %v is no error for a client", body, err)
		}
	})
}

func TestQueryParameters(t *testing.T) {
	r := &Request{HTTP: httptest.NewRequest("GET", "/?n=5&neg=-3&big=999&bad=x&t=true&f=false&maybe=1", nil)}
	for _, c := range []struct {
		name string
		want int64
		code string
	}{
		{"n", 5, ""}, {"absent", 7, ""}, {"big", 100, ""}, {"neg", 0, "M_INVALID_PARAM"}, {"bad", 0, "M_INVALID_PARAM"},
	} {
		got, err := r.QueryInt(c.name, 7, 0, 100)
		checkCode(t, err, c.code, c.name)
		if got != c.want {
			t.Errorf("%s: got %d", c.name, got)
		}
	}
	for _, c := range []struct {
		name string
		want bool
		code string
	}{
		{"t", true, ""}, {"f", false, ""}, {"absent", true, ""}, {"maybe", false, "M_INVALID_PARAM"},
	} {
		got, err := r.QueryBool(c.name, true)
		checkCode(t, err, c.code, c.name)
		if got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
	if len((&Request{}).Query()) != 0 {
		t.Error("a request without HTTP has parameters")
	}
}

func TestPathVariables(t *testing.T) {
	r := &Request{Vars: map[string]string{
		"user": "@a:b", "room": "!r:b", "alias": "#a:b", "event": "$e:b", "server": "b:8448", "bad": "x y",
	}}
	for _, c := range []struct {
		name string
		err  func(string) error
	}{
		{"user", func(n string) error { _, err := r.UserVar(n); return err }},
		{"room", func(n string) error { _, err := r.RoomVar(n); return err }},
		{"alias", func(n string) error { _, err := r.RoomAliasVar(n); return err }},
		{"event", func(n string) error { _, err := r.EventVar(n); return err }},
		{"server", func(n string) error { _, err := r.ServerVar(n); return err }},
	} {
		checkCode(t, c.err(c.name), "", "")
		checkCode(t, c.err("bad"), "M_INVALID_PARAM", "bad")
		checkCode(t, c.err("absent"), "M_INVALID_PARAM", "absent")
	}
}
