CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, kind INTEGER, price REAL);
CREATE TABLE sale(id INTEGER PRIMARY KEY, item INTEGER, amount INTEGER);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
  INSERT INTO item SELECT i, printf('item-%05d', i * 7919 % 100003), i % 13, (i * 37 % 1000) / 4.0 FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000)
  INSERT INTO sale SELECT i, i * 31 % 6000 + 1, i * 17 % 23 FROM n;
COMMIT;
CREATE INDEX item_name ON item(name);
CREATE INDEX sale_item ON sale(item);
SELECT kind, count(*), sum(amount), round(sum(amount * price), 2)
  FROM sale JOIN item ON item.id = sale.item GROUP BY kind ORDER BY kind;
SELECT count(*) FROM item WHERE name LIKE '%99%';
UPDATE item SET price = price + 1 WHERE id % 3 = 0;
DELETE FROM sale WHERE amount < 5;
SELECT round(sum(price), 2), max(name) FROM item;
SELECT count(*) FROM sale WHERE item IN (SELECT id FROM item WHERE kind = 4 ORDER BY name LIMIT 300);
