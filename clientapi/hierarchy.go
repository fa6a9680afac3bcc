package clientapi

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"weft/internal/httpapi"
	"weft/internal/spaces"
	"weft/matrix/id"
	"weft/matrix/merr"
)

const (
	defaultTreePage = 50
	maxTreePage     = 200
	// maxTreeDepth is how far below the root rooms are looked for, at most.
	maxTreeDepth = 20
	// maxTreeBytes, maxTreeLooks, maxTreeAsks and maxTreeTime end a page early: by its size, by the
	// children that were looked at, by those of which other servers were asked, by time.
	maxTreeBytes = 4 << 20
	maxTreeLooks = 1000
	maxTreeAsks  = 64
	maxTreeTime  = 15 * time.Second
	// lookTogether is how many children are looked at together.
	lookTogether = 16
)

// GetSpaceHierarchy is GET /v1/rooms/{roomId}/hierarchy. Its steps:
//
//  1. begin a walk over the tree, or find the one that a token is of (spacewalks.go);
//  2. enter the root, and the spaces that the last page was in;
//  3. go on, depth first, until the page is full, describing rooms from their state
//     or by what other servers tell (treeroom.go);
//  4. store the walk where there is more to show.
//
// spec: client-server §11.37 (GET /hierarchy)
func (s *Server) GetSpaceHierarchy(ctx context.Context, r *httpapi.Request) (any, error) {
	root, err := r.RoomVar("roomId")
	if err != nil {
		return nil, err
	}
	limit, err := r.QueryInt("limit", defaultTreePage, 1, maxTreePage)
	if err != nil {
		return nil, err
	}
	walk, err := s.beginWalk(ctx, r, root)
	if err != nil {
		return nil, err
	}
	p := &treePage{s: s, user: r.Session.User, walk: walk, limit: int(limit), rooms: []json.RawMessage{}}
	more, err := p.fill(ctx)
	if err != nil {
		return nil, err
	}
	out := struct {
		Rooms []json.RawMessage `json:"rooms"`
		Next  string            `json:"next_batch,omitempty"`
	}{Rooms: p.rooms}
	if more {
		out.Next, err = s.saveWalk(ctx, r.Session.User, walk)
	}
	return out, err
}

// beginWalk gives the walk that a request is to go on with.
//
// spec?: suggested_only and max_depth "cannot be changed" between pages. Where a later request
// leaves them out, they stay as they were.
func (s *Server) beginWalk(ctx context.Context, r *httpapi.Request, root id.Room) (*spaceWalk, error) {
	suggested, err := r.QueryBool("suggested_only", false)
	if err != nil {
		return nil, err
	}
	depth, err := r.QueryInt("max_depth", maxTreeDepth, 0, maxTreeDepth)
	if err != nil {
		return nil, err
	}
	q := r.Query()
	from := q.Get("from")
	if from == "" {
		return &spaceWalk{Root: root, MaxDepth: int(depth), Suggested: suggested, seen: make(map[roomHash]uint8)}, nil
	}
	walk, err := s.loadWalk(ctx, r.Session.User, from)
	switch {
	case err != nil:
		return nil, err
	case walk.Root != root:
		return nil, merr.InvalidParam("from is the token of another space")
	case q.Get("suggested_only") != "" && suggested != walk.Suggested || q.Get("max_depth") != "" && int(depth) != walk.MaxDepth:
		return nil, merr.InvalidParam("suggested_only and max_depth cannot change between pages")
	}
	return walk, nil
}

// treePage makes one page of a walk.
type treePage struct {
	s     *Server
	user  id.User
	walk  *spaceWalk
	limit int

	rooms         []json.RawMessage
	bytes         int
	looked, asked int
	started       time.Time
}

// enteredSpace is a space on the walk's path.
type enteredSpace struct {
	*treeRoom
	next int // the child that comes next
	// found is what is known of the first children; it is nil for those that were passed and
	// for those of which nobody tells.
	found []*treeRoom
}

// enter goes into a space, behind one of its children.
func enter(room *treeRoom, after id.Room) *enteredSpace {
	return &enteredSpace{treeRoom: room, next: 1 + room.childAt(after)}
}

// childAt gives the place of a child, or -1.
func (t *treeRoom) childAt(room id.Room) int {
	return slices.IndexFunc(t.Children, func(c spaces.Child) bool { return c.Room() == room })
}

// fill walks on until the page is full or the tree ends. It tells whether there is more.
func (p *treePage) fill(ctx context.Context) (more bool, err error) {
	path, err := p.enterPath(ctx)
	if err != nil {
		return false, err
	}
	p.started = p.s.now()
	for len(path) > 0 && len(p.walk.seen) < maxWalkRooms && !more {
		if path, more, err = p.step(ctx, path); err != nil {
			return false, err
		}
	}
	p.walk.Path = make([]walkStep, len(path))
	for i, e := range path {
		p.walk.Path[i].Room = e.RoomID
		if e.next > 0 {
			p.walk.Path[i].After = e.Children[e.next-1].Room()
		}
	}
	return more, nil
}

// enterPath enters the spaces that the last page was in, as far as they are still there
// and shown to the user. For the first page it shows the root.
func (p *treePage) enterPath(ctx context.Context) ([]*enteredSpace, error) {
	room, err := p.s.findRoom(ctx, p.user, p.walk.Root, nil)
	if err != nil {
		return nil, err
	}
	visible, err := p.visible(ctx, room)
	if err != nil {
		return nil, err
	}
	if !visible {
		return nil, merr.Forbidden("you may not view the room %s", p.walk.Root)
	}
	p.choose(room)
	if len(p.walk.Path) == 0 {
		if _, err := p.show(ctx, room, 0); err != nil || !p.enterable(room, 0) {
			return nil, err
		}
		return []*enteredSpace{enter(room, "")}, nil
	}
	path := []*enteredSpace{enter(room, p.walk.Path[0].After)}
	for _, step := range p.walk.Path[1:] {
		at := room.childAt(step.Room)
		if at < 0 {
			break
		}
		found, _, err := p.s.findChildren(ctx, room, room.Children[at:at+1])
		if err != nil {
			return nil, err
		}
		if visible, err := p.visible(ctx, found[0]); err != nil || !visible {
			return path, err
		}
		room = found[0]
		p.choose(room)
		path = append(path, enter(room, step.After))
	}
	return path, nil
}

// step does one thing at the end of the path: it leaves a space, or passes a child.
func (p *treePage) step(ctx context.Context, path []*enteredSpace) (_ []*enteredSpace, full bool, err error) {
	space, depth := path[len(path)-1], len(path)
	if space.next == len(space.Children) {
		return path[:len(path)-1], false, nil
	}
	if p.walk.done(space.Children[space.next].Room(), depth) {
		space.next++
		return path, false, nil
	}
	if space.next >= len(space.found) {
		if p.spent() {
			return path, true, nil
		}
		if err := p.look(ctx, space, depth); err != nil {
			return path, false, err
		}
	}
	room := space.found[space.next]
	if full, err = p.show(ctx, room, depth); err != nil || full {
		return path, full, err
	}
	space.next++
	if p.enterable(room, depth) {
		path = append(path, enter(room, ""))
	}
	return path, false, nil
}

// spent tells that a page has taken enough work, whatever it holds.
func (p *treePage) spent() bool {
	return p.looked >= maxTreeLooks || p.asked >= maxTreeAsks || p.s.now().Sub(p.started) >= maxTreeTime
}

// look finds out about the next children of a space, no more than the page has place for.
func (p *treePage) look(ctx context.Context, space *enteredSpace, depth int) error {
	var links []spaces.Child
	var places []int
	for i := space.next; i < len(space.Children) && len(links) < min(lookTogether, p.limit-len(p.rooms)+1); i++ {
		if !p.walk.done(space.Children[i].Room(), depth) {
			links, places = append(links, space.Children[i]), append(places, i)
		}
	}
	found, asked, err := p.s.findChildren(ctx, space.treeRoom, links)
	if err != nil {
		return err
	}
	more := make([]*treeRoom, places[len(places)-1]+1)
	copy(more, space.found)
	for i, place := range places {
		if more[place] = found[i]; found[i] != nil {
			p.choose(found[i])
		}
	}
	space.found = more
	p.looked, p.asked = p.looked+len(links), p.asked+asked
	return nil
}

// choose drops the children that were not asked for.
func (p *treePage) choose(room *treeRoom) {
	if p.walk.Suggested {
		room.Children = spaces.OnlySuggested(room.Children)
	}
}

func (p *treePage) visible(ctx context.Context, room *treeRoom) (bool, error) {
	if room == nil {
		return false, nil
	}
	_, ok, err := p.s.maySeeRoom(ctx, p.user, &room.Summary)
	return ok, err
}

// show puts a room into the page, where the user may see it and it is not in one already. It
// tells whether there is no place for it. A room of which nobody tells may be met
// again, as the child of another space that knows better where to ask.
func (p *treePage) show(ctx context.Context, room *treeRoom, depth int) (full bool, err error) {
	if room == nil {
		return false, nil
	}
	if !p.walk.shown(room.RoomID) {
		visible, err := p.visible(ctx, room)
		if err != nil {
			return false, err
		}
		if !visible {
			p.walk.see(room.RoomID, 0)
			return false, nil
		}
		if len(p.rooms) == p.limit || p.bytes >= maxTreeBytes {
			return true, nil
		}
		raw, err := json.Marshal(room.Space)
		if err != nil {
			return false, fmt.Errorf("writing the summary of %s: %w", room.RoomID, err)
		}
		p.rooms, p.bytes = append(p.rooms, raw), p.bytes+len(raw)
	}
	p.walk.see(room.RoomID, depth)
	return false, nil
}

// enterable tells whether the children of a room are to be shown, that was met at a depth.
func (p *treePage) enterable(room *treeRoom, depth int) bool {
	return room != nil && room.RoomType == spaces.RoomType && depth < p.walk.MaxDepth && p.walk.seen[hashRoom(room.RoomID)] == uint8(depth)
}
