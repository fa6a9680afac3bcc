package load

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Page is one answer of /messages.
type Page struct {
	Events []Event
	End    string // token of the next page; empty: there is none
}

// Event is what the checks look at in an event.
type Event struct{ ID, Type, Sender, Body string }

// Messages reads a page of a room's history, forward from its start or backward from its end ("f" or "b").
func (u *User) Messages(ctx context.Context, room, dir, from string, limit int) (Page, error) {
	path := v3 + "/rooms/" + escape(room) + "/messages?dir=" + dir + "&limit=" + strconv.Itoa(limit)
	if from != "" {
		path += "&from=" + url.QueryEscape(from)
	}
	a, err := u.Call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return Page{}, err
	}
	defer a.Release()
	var p Page
	// Parsing copies the body once, so that what is kept lives on.
	all := a.Parsed()
	p.End = all.Get("end").String()
	for _, e := range all.Get("chunk").Array() {
		p.Events = append(p.Events, Event{ID: e.Get("event_id").String(), Type: e.Get("type").String(),
			Sender: e.Get("sender").String(), Body: e.Get("content.body").String()})
	}
	return p, nil
}

// History reads a room from its latest event back to its first.
func (u *User) History(ctx context.Context, room string) ([]Event, error) {
	var out []Event
	from := ""
	for {
		p, err := u.Messages(ctx, room, "b", from, 1000)
		if err != nil {
			return nil, err
		}
		out = append(out, p.Events...)
		if p.End == "" || p.End == from {
			return out, nil
		}
		from = p.End
	}
}
